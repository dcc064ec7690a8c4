"""RAM plus, tensor by tensor: RAM, where what one model alone changed is made larger, by how much of its change was shared and so averaged away.

    lift_i = 1 + r * clamp(shared_i / own_i, 0, alpha)

arXiv 2601.13572; the counts of entries that model i shares with others and of those it has for itself are taken in each tensor, as in mergekit's
`ramplus_tl`, which this equals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from tempering.cases import MergeCase
from tempering.methods.merges.ram import RAM


@dataclass(frozen=True)
class RAMPlusTL(RAM):
    """Changes averaged over the models that made one, those of one model lifted."""

    r: float = 0.1
    """How strongly."""
    alpha: float = 0.2
    """The largest ratio that counts."""

    def lift(self, changed: Sequence[Tensor], count: Tensor) -> Sequence[float]:
        shared = [int((mask & (count > 1)).sum()) for mask in changed]
        own = [int((mask & (count == 1)).sum()) for mask in changed]
        ratios = [a / b if b else a / self.epsilon for a, b in zip(shared, own, strict=True)]
        return [1 + self.r * min(max(ratio, 0.0), self.alpha) for ratio in ratios]


CASES = (
    MergeCase(
        "the first has two of its own and one shared: ratio a half; the second one of each: ratio 1, of which 0.75 counts",
        RAMPlusTL(r=0.5, alpha=0.75),
        [[2, 4, 6, 0], [2, 0, 0, 8]],
        [2, 4 * 1.25, 6 * 1.25, 8 * 1.375],
        base=[0, 0, 0, 0],
    ),
    MergeCase("all is shared: nothing to lift", RAMPlusTL(), [[2, 4], [4, 0.5]], [3, 2.25], base=[0, 0]),
)
EQUIVALENT = {"lift:mul-div:2": "a model without a change of its own has nothing that the lift is of"}
