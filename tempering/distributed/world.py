"""The processes of a run as one value. A run of one process has the same value with nobody else in it, so its callers need no second path.

Small facts travel as plain values (`gather`), numbers as float64 (`sums`, in the order of the ranks, so that every process computes the same bits).
`together` is for work that may fail on one process alone, such as writing a file: it fails on all of them, with the sentence of the first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from tempering.distributed import word
from tempering.distributed.launch import end_with_launcher
from tempering.errors import UserError

T = TypeVar("T")
U = TypeVar("U")

RENDEZVOUS = "TEMPERING_RENDEZVOUS"
"""Where the processes of a run find each other, as torch.distributed's init_method; by default MASTER_ADDR and MASTER_PORT, as torchrun sets them."""
PATIENCE = timedelta(days=7)
"""How long a process waits for another that is alive, for example while the first one measures. One that dies is noticed at once."""


@dataclass(frozen=True)
class World:
    """This process among those of the run: `rank` of `size`; `group` carries what they say to each other (None where there is nobody else).

    `tensor` of them side by side (ranks 0 to N - 1, and so on) hold pieces of the same matrices and see the same rows: together they are one hand.
    """

    rank: int = 0
    size: int = 1
    group: Any = None
    tensor: int = 1

    @property
    def hands(self) -> int:
        """How many take different rows of a step."""
        return self.size // self.tensor

    @property
    def hand(self) -> int:
        """Which of them this process belongs to."""
        return self.rank // self.tensor

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def beside(self) -> World:
        """The same processes with a line of their own, for a thread that talks while training does. Every process must ask for it at once."""
        return replace(self, group=dist.new_group(backend="gloo", timeout=PATIENCE)) if self.size > 1 else self

    def gather(self, value: T) -> list[T]:
        """Everyone's value, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def share(self, value: T) -> T:
        """The first process's value."""
        return self.gather(value)[0]

    def sums(self, values: Sequence[float]) -> list[float]:
        """Element-wise sums over all hands."""
        return [sum(column) for column in zip(*self.gather(list(values))[:: self.tensor], strict=True)]

    def add(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Element-wise sums of tensors [any shape] over all hands, on their own devices."""
        everyone = self.gather([t.detach().cpu() for t in tensors])[:: self.tensor]
        return [torch.stack(column).sum(0).to(mine.device) for mine, column in zip(tensors, zip(*everyone, strict=True), strict=True)]

    def lead(self, action: Callable[[], T]) -> T:
        """The first process does something, for example writes or measures; the others wait and get its (small, plain) result.

        Raises:
            UserError: it failed, with its sentence.
        """
        result: Any = self.together(lambda: action() if self.first else None)
        return self.share(result)

    def after_first(self, action: Callable[[], T]) -> T:
        """The first process does something that leaves its result in the store, then each of the others does it and finds that result there."""
        result: Any = self.together(lambda: action() if self.first else None)
        return result if self.first else action()

    def spread(self, items: Sequence[T], work: Callable[[Sequence[T]], Sequence[U]]) -> list[U]:
        """What some work gives for items, one value for each: every process does it for its share of them, and all get all of it, in their order.

        Raises:
            UserError: it failed on another process, with its sentence.
        """
        mine = items[self.rank :: self.size]
        shares = self.gather(self.together(lambda: list(work(mine)) if mine else []))
        return [shares[i % self.size][i // self.size] for i in range(len(items))]

    def together(self, action: Callable[[], T]) -> T:
        """Do something on every process.

        Raises:
            UserError: it failed on another process, with that one's sentence. A failure of one's own is raised as it is.
        """
        if self.size == 1:
            return action()
        failure: Exception | None = None
        result: Any = None
        try:
            result = action()
        except Exception as error:
            failure = error
        failures = self.gather(None if failure is None else str(failure))
        if failure is not None:
            raise failure
        for rank, sentence in enumerate(failures):
            if sentence is not None:
                raise UserError(f"process {rank}: {sentence}")
        return result


ALONE = World()
"""A run of one process."""

_joined = ALONE


def current() -> World:
    """The world that this process has joined."""
    return _joined


@contextmanager
def joined(tensor: int = 1) -> Iterator[World]:
    """Join the processes this one was started with, by the variables that torchrun sets (RANK, WORLD_SIZE, LOCAL_RANK); alone without them.

    Args:
        tensor: how many side by side share each matrix.

    Raises:
        UserError: it does not divide the number of processes.
    """
    global _joined
    word.divides(tensor, word.number())
    if not word.several() or _joined is not ALONE:
        yield _joined
        return
    end_with_launcher()
    rank, size, here = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(here)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpu else "gloo",
        init_method=os.environ.get(RENDEZVOUS, "env://"),
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
    )
    _joined = World(rank, size, dist.new_group(backend="gloo", timeout=PATIENCE), tensor)
    try:
        yield _joined
    finally:
        _joined = ALONE
        dist.destroy_process_group()
