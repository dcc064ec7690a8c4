"""The type of merges: weights made of weights, one tensor at a time. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Each = float | tuple[float, ...]
"""A setting of each model that goes into a merge: one number for all of them, or one for each, in order."""
Draw = Callable[[Sequence[int]], "Tensor"]
"""Uniform random numbers in [0, 1) of a shape, anew at every call."""
Statistic = Literal["fisher", "gram"]
"""What a method may know of the data beside a model's tensor: its diagonal Fisher information, of the tensor's own shape, or the sums of products of
a linear layer's inputs [in, in]."""
Base = Literal["none", "optional", "first", "needed"]
"""Whether a model stands apart, which the others are changes of: never; where one is given; always, the first one if none is named; always."""


class Merge(Protocol):
    """The same tensor of several models into one. Frozen values under methods/merges, whose fields are settings: of type `Each` where every model has
    its own. A setting that changes with the depth of a layer or the name of a tensor is another value of the method for that tensor."""

    base: ClassVar[Base]

    def __call__(self, base: Tensor | None, tensors: Sequence[Tensor], draw: Draw) -> Tensor:
        """The base's tensor (None without base) and those of the others, all of one shape and type, which may be written over but for the base's;
        gives one of that shape and type, a new one or one of theirs."""
        ...


class Informed(Protocol):
    """A merge that looks at data too: how each model takes rows is computed before, and handed on tensor by tensor."""

    base: ClassVar[Base]
    statistic: ClassVar[Statistic]

    def __call__(self, base: Tensor | None, tensors: Sequence[Tensor], draw: Draw, known: Sequence[Tensor | None]) -> Tensor:
        """As `Merge`; `known` is the statistic of each of `tensors`, None where the data say nothing of one."""
        ...
