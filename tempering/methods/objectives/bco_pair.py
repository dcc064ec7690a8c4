"""Binary classifier optimisation on pairs: chosen answers on one side of a moving threshold, rejected ones on the other.

    loss = - log sigmoid(r_w - d) - log sigmoid(-(r_l - d)),   r = beta * (log pi - log pi_ref),   d = mean of r over both answers

Jung et al. 2024, arXiv 2404.04656, equations 12 and 13; beta = 0.01, lr 5e-7 (appendix C). d is the running mean of the steps' means of r, this
step's among them, without gradient: the paper's expected reward, as TRL estimated it until its DPO trainer dropped it. `shift=False` is d = 0, what
TRL 1.16 computes for "bco_pair".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._paired import EXAMPLE, SIDES, WEIGHTS, Paired, Pairs, softplus
from tempering.reduce import segment_weight
from tempering.types import Context, Parts, Signals

FAMILY = "pairs"
PAPER = {"optimizer.lr": "5e-7 (appendix C)"}


@dataclass(frozen=True)
class BCOPair(Paired):
    """Two classifiers with one threshold, the running mean reward."""

    beta: float = 0.01
    shift: bool = True
    """Whether the threshold moves with the mean reward; 0 otherwise."""
    couples = "sums"

    def stats(self, parts: Parts, signals: Signals) -> Mapping[str, Tensor]:
        """Sum and number of the scored answers' rewards (an answer without scored tokens has 0)."""
        pair = self.pairs(parts, signals)
        answers = sum((segment_weight(parts[side]) != 0).sum() for side in SIDES)
        return {"reward": self.beta * (pair.chosen + pair.rejected).sum(), "answers": torch.as_tensor(answers)}

    def initial(self) -> Mapping[str, Tensor]:
        return {name: torch.zeros((), dtype=torch.float64) for name in ("means", "steps")}

    def advance(self, state: Mapping[str, Tensor], stats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {"means": state["means"] + stats["reward"] / stats["answers"], "steps": state["steps"] + 1}

    def loss(self, pair: Pairs, ctx: Context) -> Tensor:
        threshold = (ctx.state["means"] / ctx.state["steps"]).to(pair.chosen) if self.shift else 0.0
        return -F.logsigmoid(self.beta * pair.chosen - threshold) - F.logsigmoid(-(self.beta * pair.rejected - threshold))


CASES = (
    Case(
        "rewards 0.25, -0.2 and -0.5, 0.4: the mean is -0.0125",
        BCOPair(beta=0.5),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(softplus(-0.2625) + softplus(0.1875) + softplus(-0.4875) + softplus(0.4125)) / 2,
    ),
    Case(
        "an answer without scored tokens is not in the mean",
        BCOPair(beta=0.5),
        EXAMPLE,
        weights={"chosen": [[1.0, 0.5, 0.0], [1.0]], "rejected": [[0.0], [1.0, 1.0]]},
        loss=(softplus(-0.1) + softplus(0.35) + softplus(-0.15) + softplus(0.25)) / 2,
    ),
    Case(
        "no threshold",
        BCOPair(beta=0.5, shift=False),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(softplus(-0.25) + softplus(0.2) + softplus(-0.5) + softplus(0.4)) / 2,
    ),
)
EQUIVALENT = {"loss:mul-div:1": "a case is a first step, where the number of steps is 1; the unit tests take a second one"}
