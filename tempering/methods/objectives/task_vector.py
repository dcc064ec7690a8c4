"""Task-vector negation: the model is trained on the forget rows, and the way its weights went is then walked the other way from the start.

    theta = theta_start - factor (theta_trained - theta_start)

Ilharco et al. 2023 (arXiv 2212.04089, section 3, "forgetting via negation"); the survey of Si et al. 2023 (S035, arXiv 2311.15766) has it as
parameter merging. The paper takes the largest factor between 0 and 1 with which the control task keeps 95% of its accuracy. What is trained
is the plain likelihood of the forget rows (a retain term would turn the direction); the subtraction is done in plain weights after the training, and
those are saved (`forgetting.staged.negated`). With factor 0 it is the start, with factor -1 the trained model.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._forgetting import Forgetting, RetainLoss
from tempering.types import Context, Norm, Parts, Signals

FAMILY = "forget"
CATALOGUE = ("S035",)
CONFUSED_WITH = {"gradient_ascent": "the same direction at the start only: here every step is taken downhill, from where the last one led"}


@dataclass(frozen=True)
class TaskVector(Forgetting):
    """The negative log-likelihood of the forget rows, whose task vector is subtracted."""

    factor: float = 1.0
    """How much of the task vector is subtracted."""
    norm: Norm = "tokens"
    """What the likelihood is divided by."""
    retain_loss: RetainLoss = "none"
    """The paper has no retain term."""
    per = "token"

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        return -signals["forget"]["logp"]


_LOGPS = {"logp": [[-1, -2, -4], [-8], [-16, -32]]}
_WEIGHTS = [[0, 1, 0.5], [2], [1, 1]]

CASES = (
    Case(
        "all tokens alike, unscored ones not at all",
        TaskVector(),
        {"forget": _LOGPS},
        weights={"forget": _WEIGHTS},
        loss=(4 + 16 + 48) / 5.5,
        gradient={"forget/logp": [[0, -1 / 5.5, -0.5 / 5.5], [-2 / 5.5], [-1 / 5.5, -1 / 5.5]]},
    ),
)
