"""Identity preference optimisation: the margin is pulled to a fixed target instead of up for ever, so preferences that never err do not overfit.

    loss = ( [ (log pi - log pi_ref)(y_w) / |y_w| - (log pi - log pi_ref)(y_l) / |y_l| ] - 1 / (2 beta) )^2

Azar et al. 2023, arXiv 2310.12036, equation 17 (its tau is our beta). The paper writes sums of log-probs; its authors' experiments, and TRL, divide
by the answers' lengths, as here; `average=False` is the equation as printed.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._paired import EXAMPLE, WEIGHTS, Contrast, Pairs
from tempering.types import Context

FAMILY = "pairs"
PAPER = {"optimizer.lr": "1e-6 (not in the paper, whose experiments are bandits; DPO's)"}


@dataclass(frozen=True)
class IPO(Contrast):
    """Squared distance of the margin from 1 / (2 beta)."""

    average: bool = True

    def loss(self, pair: Pairs, ctx: Context) -> Tensor:
        return (self.delta(pair) - 1 / (2 * self.beta)) ** 2


CASES = (
    Case(
        "means by token: differences 4/3 and -0.8 against a target of 2",
        IPO(beta=0.25),
        EXAMPLE,
        weights=WEIGHTS,
        loss=((4 / 3 - 2) ** 2 + (-0.8 - 2) ** 2) / 2,
        gradient={"chosen/logp": [[-2 / 3 / 1.5, -2 / 3 / 1.5 / 2, 0.0], [-2.8]], "rejected/logp": [[2 / 3], [1.4, 1.4]]},
        logs={"margin": 0.25 * 0.15},
    ),
    Case("as printed, on sums", IPO(beta=0.5, average=False), EXAMPLE, weights=WEIGHTS, loss=(0.5**2 + 2.2**2) / 2),
)
