"""DPO with an offset: how far apart a pair must be grows with how far apart its scores are.

    loss = - log sigmoid( beta * [ (log pi/pi_ref)(y_w) - (log pi/pi_ref)(y_l) ] - alpha * log(score_w - score_l) )

Amini et al. 2024, arXiv 2402.10571, equation 7; alpha = 1 in its experiments. Needs a column "score" on both answers, the chosen one's higher.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tempering.cases import Case
from tempering.methods.objectives._paired import EXAMPLE, WEIGHTS, Pairs, softplus
from tempering.methods.objectives.dpo import DPO
from tempering.types import Parts, Signals

FAMILY = "pairs"
PAPER = {"optimizer.lr": "1e-6 (DPO's)"}
RECIPE = {"data": "builtin:demo-ratings"}  # it needs scores


@dataclass(frozen=True)
class ODPO(DPO):
    """Sigmoid loss on a margin less an offset by scores."""

    alpha: float = 1.0
    """Weight of the offset; 0 is DPO."""

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {side: names | {"score"} for side, names in super().needs.items()}

    def pairs(self, parts: Parts, signals: Signals) -> Pairs:
        """Pairs with their offsets."""
        gap_S = signals["chosen"]["score"] - signals["rejected"]["score"]
        return replace(super().pairs(parts, signals), offset=self.alpha * gap_S.log())


CASES = (
    Case(
        "gaps 2 and 0.5",
        ODPO(beta=0.5, alpha=0.7),
        {"chosen": EXAMPLE["chosen"] | {"score": [5.0, 1.0]}, "rejected": EXAMPLE["rejected"] | {"score": [3.0, 0.5]}},
        weights=WEIGHTS,
        loss=(softplus(0.7 * math.log(2) - 0.75) + softplus(0.6 + 0.7 * math.log(0.5))) / 2,
    ),
)
