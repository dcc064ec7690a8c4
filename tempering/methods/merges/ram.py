"""RAM, merging of agents trained by reinforcement: what only one model changed is taken as it is, what several changed is averaged over those.

    W = base + sum_i d_i [|d_i| > epsilon] / (how many models changed the entry)

Reinforcement changes few weights, so an average over all models would dilute what only one of them learned. arXiv 2601.13572 ("Reinforced Agent
Merging"). The same as mergekit's `ram`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tempering.cases import MergeCase
from tempering.merges import Base, Draw
from tempering.methods.merges._vectors import against


@dataclass(frozen=True)
class RAM:
    """Changes averaged over the models that made one."""

    base: ClassVar[Base] = "needed"
    epsilon: float = 1e-5
    """Up to which size a change is none."""

    def lift(self, changed: Sequence[Tensor], count: Tensor) -> Sequence[float]:
        """What a model's own changes, that nobody else made, are multiplied with."""
        return (1.0,) * len(changed)

    def __call__(self, base: Tensor | None, tensors: Sequence[Tensor], draw: Draw) -> Tensor:
        start = against(base, self)
        deltas = [tensor.sub_(start) for tensor in tensors]
        changed = [delta.abs() > self.epsilon for delta in deltas]
        count = torch.stack(changed).sum(0)
        lifts = self.lift(changed, count)
        total = torch.zeros_like(start)
        for delta, mask, lift in zip(deltas, changed, lifts, strict=True):
            total += delta.mul_(mask) * torch.where(count == 1, lift, 1 / count.clamp(min=1)).to(delta.dtype)
        return total.add_(start)


CASES = (
    MergeCase(
        "own, shared, negative and no changes; up to 0.1 is none",
        RAM(epsilon=0.1),
        [[3, 1, 1, 1.05, -2], [1, 5, 1, 0.95, 1], [1, 3, 1.5, 1, -4]],
        [3, 4, 1.5, 1, -3],
        base=[1, 1, 1, 1, 1],
    ),
)
EQUIVALENT = {
    "__call__:drop-mask:2": "a change of one model alone is lifted by 1 here; ramplus_tl lifts it otherwise",
    "__call__:constant:3": "the divisor of a change of one model alone, or of none, is not used",
}
