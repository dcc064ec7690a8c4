"""Chat vector, or instruction residual: what one training of a base added is put on another model trained from that base.

    W = W_first + weight * sum_i (W_i - base)

The first model is the one that is added to: an instruction-tuned model that gets the change of continued pretraining, or what is the same up to
rounding, the continued model that gets the change of instruction tuning. Huang et al. 2023, arXiv 2310.04799 (chat vector); released merges of
continued models (nekomata); Jindal et al. 2024, arXiv 2410.10739 (instruction residual). It is task arithmetic with weights of 1 for the first model;
added in this order, nothing to add leaves every bit of the first model as it was, which `base + (W_first - base)` would not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tempering.cases import MergeCase
from tempering.errors import UserError
from tempering.merges import Base, Draw
from tempering.methods.merges._vectors import against

CATALOGUE = ("S077", "S106")


@dataclass(frozen=True)
class ChatVector:
    """The first model, and what the others learned from the base."""

    base: ClassVar[Base] = "needed"
    weight: float = 1.0
    """Of what is added."""

    def __call__(self, base: Tensor | None, tensors: Sequence[Tensor], draw: Draw) -> Tensor:
        start, (first, *others) = against(base, self), tensors
        if not others:
            raise UserError("chat_vector needs the model that is added to and one whose change from the base is added; two, beside the base")
        for other in others:
            first.add_(other.sub_(start), alpha=self.weight)
        return first


CASES = (
    MergeCase("half of what two others learned", ChatVector(weight=0.5), [[5, 1], [3, 2], [1, -4]], [6, -2], base=[1, 2]),
    MergeCase("nothing was learned", ChatVector(), [[5, 1], [1, 2]], [5, 1], base=[1, 2]),
)
