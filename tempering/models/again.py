"""Outputs that the backward pass computes again instead of finding them kept.

The norm of a block's input is kept by every layer that reads it, the product of a gated MLP's two halves by the layer behind it; both are an
elementwise pass away from what is kept anyway. Autograd asks here what to keep for each tensor (`torch.autograd.graph.saved_tensors_hooks`): where it
is such an output, how it was made is kept in its place. Any layer may have read it, a plain one or one with adapters, and it is made once for all of
them. The same operations on the same numbers give the same bits.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor


class _Output:
    """One output: how it is made, how many keep it, and its value while they ask for it one after the other."""

    def __init__(self, tensor: Tensor, make: Callable[[], Tensor]) -> None:
        self.size, self.version, self.make = tensor.numel(), tensor._version, make
        self.kept, self.left = 0, 0
        self.value: Tensor | None = None

    def take(self) -> Tensor:
        """The value; the last of those who keep it lets it go."""
        if self.value is None:
            with torch.no_grad():
                self.value, self.left = self.make(), self.kept
        value, self.left = self.value, self.left - 1
        if self.left == 0:
            self.value = None
        return value


_OUTPUTS: ContextVar[dict[int, tuple[_Output, Any]] | None] = ContextVar("tempering_outputs_made_again", default=None)
"""By the storage, which nobody else can have while the output is alive; beside each what takes it out when it is no more."""


@contextmanager
def again() -> Iterator[None]:
    """Inside, outputs that `made_by` was told of are not kept for the backward pass, which may come later."""
    token = _OUTPUTS.set({})
    try:
        with torch.autograd.graph.saved_tensors_hooks(_keep, _give):
            yield
    finally:
        _OUTPUTS.reset(token)


def made_by(tensor: Tensor, make: Callable[[], Tensor]) -> Tensor:
    """The tensor itself; inside of `again`, `make()` is what a backward pass has in its place: the same numbers from tensors that are kept anyway."""
    outputs = _OUTPUTS.get()
    if outputs is not None and torch.is_grad_enabled():
        place = tensor.untyped_storage()._cdata
        outputs[place] = _Output(tensor, make), weakref.ref(tensor, lambda _: outputs.pop(place, None))
    return tensor


def _keep(tensor: Tensor) -> Any:
    outputs = _OUTPUTS.get()
    if not outputs or hasattr(tensor, "device_mesh"):
        return tensor
    output, _ = outputs.get(tensor.untyped_storage()._cdata, (None, None))
    # What was written into since, is a part of it or lies in another order is kept as it is.
    if output is None or tensor._version != output.version or tensor.numel() != output.size or not tensor.is_contiguous():
        return tensor
    output.kept += 1
    return output, tensor.shape


def _give(kept: Any) -> Tensor:
    if isinstance(kept, Tensor):
        return kept
    output, shape = kept
    return output.take().view(shape)
