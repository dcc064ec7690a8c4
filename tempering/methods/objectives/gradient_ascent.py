"""Gradient ascent: make the forget rows as unlikely as possible. With the retain term "nll" this is GradDiff, with "kl" KL minimisation.

    loss = sum_t w_t log p(y_t | y_<t) / sum_t w_t   on the forget set

Jang et al. 2022 (S184, arXiv 2210.01504, equation 2) maximise the loss on the target sequences and nothing else, and stop by extraction likelihood
and memorisation accuracy; Yao et al. 2023 (arXiv 2310.10683) and Maini et al. 2024 (arXiv 2401.06121, section 4) add the retain terms. It has no
lower bound: the model falls apart when it runs on, which is the point of comparison for everything else in this family. Of the seven ways that Yao et
al. 2024 compare (S084, arXiv 2402.15159) this is five: alone, and with each retain term on retain rows of the same distribution or of general text;
the others are `random_labels` and `adversarial_labels`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._forgetting import Forgetting, RetainLoss
from tempering.reduce import scored
from tempering.types import Context, Norm, Parts, Signals

FAMILY = "forget"
CATALOGUE = ("S184", "S084")


@dataclass(frozen=True)
class GradientAscent(Forgetting):
    """The negative of the negative log-likelihood."""

    norm: Norm = "tokens"
    """What the forget term is divided by."""
    retain_loss: RetainLoss = "none"
    """The paper has no retain term."""
    per = "token"

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        logp_T = signals["forget"]["logp"]
        ctx.log(forget_nll=-scored(logp_T, parts["forget"]))
        return logp_T


_LOGPS = {"logp": [[-1, -2, -4], [-8], [-16, -32]]}
_WEIGHTS = [[0, 1, 0.5], [2], [1, 1]]

CASES = (
    Case(
        "all tokens alike, unscored ones not at all",
        GradientAscent(),
        {"forget": _LOGPS},
        weights={"forget": _WEIGHTS},
        loss=-(4 + 16 + 48) / 5.5,
        gradient={"forget/logp": [[0, 1 / 5.5, 0.5 / 5.5], [2 / 5.5], [1 / 5.5, 1 / 5.5]]},
        logs={"forget_nll": (2 + 4 + 8 + 16 + 32) / 5},
    ),
    Case(
        "GradDiff: half the ascent, and the likelihood of other rows",
        GradientAscent(retain_loss="nll", weight=0.5, retain_weight=3.0),
        {"forget": _LOGPS, "retain": {"logp": [[-1, -3], [-0.5], [-4]]}},
        weights={"forget": _WEIGHTS, "retain": [[0, 1], [2], [1]]},
        loss=-0.5 * (4 + 16 + 48) / 5.5 + 3 * (3 + 1 + 4) / 4,
    ),
    Case(
        "KL minimisation",
        GradientAscent(retain_loss="kl"),
        {
            "forget": {"logp": [[-1, -2], [-3]]},
            "retain": {"logits": [[[0.0, math.log(3)]], [[0.0, 0.0]]], "reference.logits": [[[1.0, 1.0]], [[2.0, 2.0]]]},
        },
        loss=-2 + 0.5 * math.log(4 / 3) / 2,
    ),
)
