"""Bytes of tensors alive while code runs, on tensors that hold nothing.

Torch's fake tensors have a shape, a type and a device, go through every operation and autograd, and own no memory. Operations on them are watched
here: each new storage is added to a count and taken off when it dies. Whole numbers (ids, positions, slots) stay real, because layouts are read from
them.

Where code asks a fake tensor for its content, as for a loss to log, it is told 1 or "equal": nothing that the engine decides by content changes what
it keeps.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

_ANSWERS: dict[Any, Any] = {
    torch.ops.aten._local_scalar_dense.default: 1.0,
    torch.ops.aten.allclose.default: True,
    torch.ops.aten.equal.default: True,
}


@dataclass(frozen=True)
class Alive:
    """Bytes at one moment; `logits` are those of tensors whose last dimension is the vocabulary."""

    total: int = 0
    logits: int = 0


class Meter(TorchDispatchMode):
    """Counts storages inside of `with meter:`.

    Args:
        vocabulary: size of the last dimension by which logits are known.
    """

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.vocabulary = vocabulary
        self.now = self.logits = 0
        self._storages: dict[int, tuple[Any, int, bool]] = {}
        self.restart()

    def restart(self) -> None:
        """Forget the peaks, not what is alive."""
        self.start = self.peak = self.after = Alive(self.now, self.logits)
        self._running = Alive(self.now, self.logits)
        self._backward = False

    def add(self, tensors: Iterable[Tensor]) -> int:
        """Count these tensors' storages from now on; returns the bytes that were not counted before."""
        before = self.now
        for tensor in tensors:
            self._track(tensor)
        return self.now - before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        backward = torch._C._current_graph_task_id() != -1
        if backward and not self._backward:
            # The first operation of a backward pass: everything that was kept for it is alive.
            self.start = max(self.start, Alive(self.now, self.logits), key=_total)
        self._backward = backward
        if any(issubclass(kind, FakeTensor) for kind in types) and func in _ANSWERS:
            return _ANSWERS[func]
        if func is torch.ops.aten.index.Tensor:
            args = (args[0], [_places(index) for index in args[1]])
        out = func(*args, **(kwargs or {}))
        for tensor in (out,) if isinstance(out, Tensor) else out if isinstance(out, tuple | list) else ():
            if isinstance(tensor, Tensor):
                self._track(tensor)
        if backward:
            # What has been the most so far belongs to the passes; what comes after the last of them, to the update.
            self.peak, self.after = max(self.peak, self._running, key=_total), Alive(self.now, self.logits)
            self._running = replace(self.after)
        return out

    def _track(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return
        size, logits = storage.nbytes(), tensor.dim() > 0 and tensor.shape[-1] == self.vocabulary
        self._storages[key] = (weakref.ref(storage, self._forget(key)), size, logits)
        self.now += size
        self.logits += size if logits else 0
        if self.now > self._running.total:
            self._running = Alive(self.now, self.logits)
        if self.now > self.after.total:
            self.after = Alive(self.now, self.logits)

    def _forget(self, key: int) -> Callable[[Any], None]:
        def forget(_: Any) -> None:
            _, size, logits = self._storages.pop(key)
            self.now -= size
            self.logits -= size if logits else 0

        return forget


def _places(index: Any) -> Any:
    """A mask that has contents as the places that it picks, so that the size of what is picked is known; anything else as it is."""
    plain = isinstance(index, Tensor) and not isinstance(index, FakeTensor) and index.dtype == torch.bool and index.dim() == 1
    return index.nonzero().squeeze(-1) if plain else index


def _total(alive: Alive) -> int:
    return alive.total
