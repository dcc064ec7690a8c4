"""Unified fine-tuning: one implicit reward for all feedback, pulled to a target, so that demonstrations and rated answers train together.

    loss = ( sigmoid(r) - t )^2   or, with form="bce",   - t log sigmoid(r) - (1 - t) log sigmoid(-r);   r = beta * log pi / pi_ref (y | x)

Wang et al. 2024, UFT (S021), on the reward of UNA, by the same authors; t = 1 for demonstrations, the label (0 to 1) for feedback. beta = 0.01. At
the reference the gradient on a demonstration is beta / 4 times that of its summed negative log-likelihood (beta / 2 with "bce"). `mean` divides the
log-ratio by the answer's length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._paired import length, softplus
from tempering.reduce import segment_sum
from tempering.types import Context, Objective, Parts, Signals

FAMILY = "unpaired"
CATALOGUE = ("S021",)
PAPER = {"optimizer.lr": "3e-5, LoRA r 16 on a 7B model"}


@dataclass(frozen=True)
class UFT(Objective):
    """Distance of the squashed implicit reward from its target."""

    beta: Annotated[float, Field(gt=0)] = 0.01
    """Scale of the implicit reward."""
    form: Literal["mse", "bce"] = "mse"
    """Squared error, which the paper uses for demonstrations, or cross-entropy."""
    mean: bool = False
    """Take the log-ratio by token; beta then means something else."""
    norm = "segments"
    per = "segment"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"train": frozenset({"logp", "reference.logp", "label"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        batch, s = parts["train"], signals["train"]
        ratio_S = segment_sum(s["logp"] - s["reference.logp"], batch)
        reward_S, target_S = self.beta * (ratio_S / length(batch) if self.mean else ratio_S), s["label"]
        ctx.log(reward=reward_S, accuracy=((reward_S > 0) == (target_S > 0.5)).float())
        if self.form == "bce":
            return -target_S * F.logsigmoid(reward_S) - (1 - target_S) * F.logsigmoid(-reward_S)
        return (torch.sigmoid(reward_S) - target_S) ** 2


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# Log-ratios 1.5 over 2 tokens, and -3 over 1; labels 1 and 0.25; the third answer is not scored.
_ROWS = {
    "train": {
        "logp": [[-1.0, -0.5, 9.0], [-4.0], [-1.0]],
        "reference.logp": [[-1.5, -1.5, 0.0], [-1.0], [-2.0]],
        "label": [1.0, 0.25, 0.5],
    }
}
_WEIGHTS = {"train": [[1, 1, 0], [1], [0]]}
CASES = (
    Case(
        "a demonstration and a rated answer of one prompt, squared",
        UFT(beta=0.5),
        _ROWS,
        weights=_WEIGHTS,
        groups={"train": [0, 0, 1]},
        loss=((_sigmoid(0.75) - 1) ** 2 + (_sigmoid(-1.5) - 0.25) ** 2) / 2,
        gradient={
            "train/logp": [
                [*[0.5 * (_sigmoid(0.75) - 1) * _sigmoid(0.75) * _sigmoid(-0.75)] * 2, 0],
                [0.5 * (_sigmoid(-1.5) - 0.25) * _sigmoid(1.5) * _sigmoid(-1.5)],
                [0],
            ]
        },
        logs={"reward": (0.75 - 1.5) / 3, "accuracy": 1.0},
    ),
    Case("the same as cross-entropy", UFT(beta=0.5, form="bce"), _ROWS, weights=_WEIGHTS,
         loss=(softplus(-0.75) + 0.25 * softplus(1.5) + 0.75 * softplus(-1.5)) / 2),
    Case("by token", UFT(beta=0.5, mean=True), _ROWS, weights=_WEIGHTS,
         loss=((_sigmoid(0.375) - 1) ** 2 + (_sigmoid(-1.5) - 0.25) ** 2) / 2),
    Case(
        "at the reference a demonstration pulls by beta / 4, and a reward of 0.3 is right for a label above a half",
        UFT(beta=0.2),
        {"train": {"logp": [[-1, -2], [-1]], "reference.logp": [[-1, -2], [-2.5]], "label": [1, 0.6]}},
        loss=(0.25 + (_sigmoid(0.3) - 0.6) ** 2) / 2,
        gradient={"train/logp": [[-0.05 / 2] * 2, [0.2 * (_sigmoid(0.3) - 0.6) * _sigmoid(0.3) * _sigmoid(-0.3)]]},
        logs={"accuracy": 0.5},
    ),
)  # fmt: skip
