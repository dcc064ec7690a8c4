"""Contrastive preference optimisation: DPO without a reference, and a likelihood term on the chosen answers in its place.

    loss = - log sigmoid( beta * [ log pi(y_w) - log pi(y_l) ] ) - a * (1/T) sum_t log pi(y_w,t)

Xu et al. 2024, arXiv 2401.08417, equations 3 to 6; beta = 0.1, a = 1. The second term is a mean over all chosen tokens of the step, as in the
released code and TRL. `form` "hinge" and "ipo" put SLiC's and IPO's loss on the same reference-free margin, as TRL offers ("ipo" on mean log-probs).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from tempering.cases import Case
from tempering.errors import UserError
from tempering.methods.objectives._paired import EXAMPLE, WEIGHTS, Paired, Pairs, softplus
from tempering.reduce import segment_mean
from tempering.types import Batch, Context

FAMILY = "pairs"
PAPER = {"optimizer.lr": "1e-4 (released script, LoRA; recalled, not checked)"}
CONFUSED_WITH = {"controllable preference optimisation (CPO, S247)": "puts the wanted scores into the prompt"}


@dataclass(frozen=True)
class CPO(Paired):
    """Reference-free pair loss plus likelihood."""

    reference_free: bool = True
    sft: float = 1.0
    label_smoothing: float = 0.0
    """Probability that a pair is labelled the wrong way round ("sigmoid" only)."""
    form: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"

    def __post_init__(self) -> None:
        if self.form not in ("sigmoid", "hinge", "ipo"):
            raise UserError(f"form is {self.form!r}; CPO has 'sigmoid', 'hinge' and 'ipo'")

    def total(self, x_T: Tensor, batch: Batch) -> Tensor:
        """Means for "ipo", sums otherwise."""
        return segment_mean(x_T, batch) if self.form == "ipo" else super().total(x_T, batch)

    def loss(self, pair: Pairs, ctx: Context) -> Tensor:
        delta_S = pair.chosen - pair.rejected
        if self.form == "hinge":
            return F.relu(1 - self.beta * delta_S)
        if self.form == "ipo":
            return (delta_S - 1 / (2 * self.beta)) ** 2
        margin_S = self.beta * delta_S
        return -(1 - self.label_smoothing) * F.logsigmoid(margin_S) - self.label_smoothing * F.logsigmoid(-margin_S)


_FAR = {"chosen": {"logp": [[-1.0], [-0.5]]}, "rejected": {"logp": [[-0.8], [-0.4, -0.7]]}}

CASES = (
    Case(
        "log-probs -2, -1.5 against -2, -1.3; 3.5 nats over 2.5 chosen tokens",
        CPO(beta=0.5, sft=2.0, label_smoothing=0.1),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(math.log(2) + 0.9 * softplus(0.1) + 0.1 * softplus(-0.1)) / 2 + 2.0 * 3.5 / 2.5,
        logs={"chosen_reward": -0.875, "rejected_reward": -0.825},
    ),
    Case("hinge, the second pair past it", CPO(beta=2.0, sft=0.0, form="hinge"), _FAR, loss=(1 + 0.4 + 0.0) / 2),
    Case(
        "ipo on means: -4/3, -1.5 against -2, -0.65, target 2",
        CPO(beta=0.25, sft=0.0, form="ipo"),
        EXAMPLE,
        weights=WEIGHTS,
        loss=((2 / 3 - 2) ** 2 + (-0.85 - 2) ** 2) / 2,
        logs={"chosen_reward": 0.25 * (-4 / 3 - 1.5) / 2},
    ),
)
