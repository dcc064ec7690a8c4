"""UltraFuser: several specialists speak at once, and a gate says at every token what each of them counts.

    logits = sum_i g_i logits_i,   g = softmax_i (w_i h_i),   h_i the last state of specialist i, w_i a row of its own

Ding et al. 2024 (arXiv 2403.08281, S246). The row w_i is the last of the i-th specialist's output layer (`merging/specialists.py`), so the last of
its logits is what it bids for a token, and the others are words. With bids that are far apart one specialist speaks as it would alone, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tempering.methods.decodes._gated import gated

if TYPE_CHECKING:
    from torch import Tensor

CATALOGUE = ("S246",)
CONFUSED_WITH = {"average": "one vote for each model at every token, in probability", "mixture": "two models by one fixed share"}


@dataclass(frozen=True)
class UltraFuser:
    """The words' logits of several specialists, by their bids."""

    others: tuple[str, ...] = ()
    """The roles of the other specialists; without any the policy is alone."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "others", tuple(self.others))

    @property
    def roles(self) -> tuple[str, ...]:
        return self.others

    def __call__(self, tokens_RL: Tensor, logits: Mapping[str, Tensor]) -> Tensor:
        return gated([logits[role] for role in ("policy", *self.others)])[0]
