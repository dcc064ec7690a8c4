"""Self-play preference optimisation: regress each answer's log-ratio on how often it wins, here surely or never.

    loss = (log pi/pi_ref(y_w) - 1/(2 beta))^2 + (log pi/pi_ref(y_l) + 1/(2 beta))^2

Wu et al. 2024, arXiv 2405.00675, equation 4.7 with win rates of 1 and 0 ("hard", as in TRL); its eta is 1/beta, 1e3 in the experiments. The reference
is the policy of the last round.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._paired import EXAMPLE, WEIGHTS, Paired, Pairs
from tempering.types import Context

FAMILY = "pairs"
PAPER = {"optimizer.lr": "5e-7 (appendix C)"}


@dataclass(frozen=True)
class SPPO(Paired):
    """Squared distances of both log-ratios from plus and minus 1 / (2 beta)."""

    beta: float = 0.001

    def loss(self, pair: Pairs, ctx: Context) -> Tensor:
        target = 1 / (2 * self.beta)
        return (pair.chosen - target) ** 2 + (pair.rejected + target) ** 2


CASES = (
    Case(
        "targets 2 and -2",
        SPPO(beta=0.25),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(1.5**2 + 1.0**2 + 2.4**2 + 2.8**2) / 2,
        gradient={"chosen/logp": [[-1.5, -0.75, 0.0], [-2.4]], "rejected/logp": [[1.0], [2.8, 2.8]]},
    ),
)
