"""Length-regularised DPO: what a longer chosen answer wins by length is not credited to its content.

    loss = - log sigmoid( beta * [ (log pi/pi_ref)(y_w) - (log pi/pi_ref)(y_l) ] + alpha * (|y_w| - |y_l|) )

Park et al. 2024, arXiv 2403.19159, equation 9: DPO for the reward less alpha per token, whose optimal policy has the implicit reward
beta * log pi/pi_ref + alpha * |y|. alpha = 0.01 here; the paper tunes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tempering.cases import Case
from tempering.methods.objectives._paired import EXAMPLE, WEIGHTS, Pairs, softplus
from tempering.methods.objectives.dpo import DPO
from tempering.types import Parts, Signals

FAMILY = "pairs"
PAPER = {"optimizer.lr": "1e-6 (DPO's)"}


@dataclass(frozen=True)
class RDPO(DPO):
    """Sigmoid loss on a margin plus a difference of lengths."""

    alpha: float = 0.01
    """Reward taken per token; 0 is DPO."""

    def pairs(self, parts: Parts, signals: Signals) -> Pairs:
        """Pairs with their offsets."""
        pair = super().pairs(parts, signals)
        return replace(pair, offset=-self.alpha * (pair.chosen_length - pair.rejected_length))


CASES = (
    Case(
        "lengths 1.5 against 1 and 1 against 2",
        RDPO(beta=0.5, alpha=0.3),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(softplus(-0.75 - 0.15) + softplus(0.6 + 0.3)) / 2,
    ),
    Case(
        "an answer without scored tokens counts as one token long",
        RDPO(beta=0.5, alpha=0.3),
        EXAMPLE,
        weights={"chosen": [[1.0, 0.5, 0.0], [1.0]], "rejected": [[0.0], [1.0, 1.0]]},
        loss=(softplus(-0.25 - 0.15) + softplus(0.6 + 0.3)) / 2,
    ),
)
