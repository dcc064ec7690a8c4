"""Streams: rows in a seeded order, several streams side by side, and a finite list for evaluation.

A stream's position is a few integers, so a resumed run sees the same rows: the order of an epoch is a function of (seed, epoch) alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tempering.layout import collate
from tempering.types import Parts, Row, Run, Stream


class Order:
    """Which of `count` things comes at a position: all of them in each epoch, in a new seeded order."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self._epoch, self._order = -1, np.zeros(0, dtype=np.int64)

    def __call__(self, position: int) -> int:
        epoch, place = divmod(position, self.count)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(self.count)
        return int(self._order[place])


class Shuffled:
    """Rows without end, each epoch in a new seeded order; a step takes the next `batch_size` rows, over the end of an epoch if need be.

    Args:
        rows: anything with a length and an index: a `Table` on disk, a list.
        batch_size: rows of one optimizer step.
        seed: of the order.
    """

    def __init__(self, rows: Sequence[Row], batch_size: int, seed: int = 0) -> None:
        if not len(rows):
            raise ValueError("a stream needs at least one row")
        self.rows, self.batch_size, self.seed, self.taken = rows, batch_size, seed, 0
        self._order = Order(len(rows), seed)

    def next(self, run: Run) -> Parts:
        """The next step's parts."""
        return collate(self.take())

    def take(self) -> list[Row]:
        """The next step's rows."""
        indices = [self._order(self.taken + i) for i in range(self.batch_size)]
        self.taken += self.batch_size
        return [self.rows[i] for i in indices]

    def state(self) -> dict[str, Any]:
        return {"taken": self.taken}

    def load(self, state: Mapping[str, Any]) -> None:
        self.taken = int(state["taken"])


class Balanced:
    """As many rows of each of several kinds in every step, whatever there is of them; each in an order of its own.

    Args:
        kinds: rows of a kind each.
        batch_size: rows of one optimizer step; it divides by the kinds.
        seed: of the orders.
    """

    def __init__(self, kinds: Sequence[Sequence[Row]], batch_size: int, seed: int = 0) -> None:
        if not kinds or batch_size % len(kinds):
            raise ValueError(f"{batch_size} rows a step cannot be balanced over {len(kinds)} kinds")
        self.streams = [Shuffled(rows, batch_size // len(kinds), seed) for rows in kinds]

    def next(self, run: Run) -> Parts:
        """The next step's parts."""
        return collate([row for stream in self.streams for row in stream.take()])

    def state(self) -> dict[str, Any]:
        return {str(i): stream.state() for i, stream in enumerate(self.streams)}

    def load(self, state: Mapping[str, Any]) -> None:
        for i, stream in enumerate(self.streams):
            stream.load(state[str(i)])


class Join:
    """Several streams side by side: each gives its own parts under new names, for example forget and retain, or a task and its replay.

    Args:
        streams: prefix-free part name -> (stream, its part). `Join(forget=(a, "train"), retain=(b, "train"))`.
    """

    def __init__(self, **streams: tuple[Stream, str]) -> None:
        self.streams = dict(sorted(streams.items()))

    def next(self, run: Run) -> Parts:
        """One part of each stream under its new name."""
        return {name: stream.next(run)[part] for name, (stream, part) in self.streams.items()}

    def state(self) -> dict[str, Any]:
        return {name: stream.state() for name, (stream, _) in self.streams.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        for name, (stream, _) in self.streams.items():
            stream.load(state[name])


class Together:
    """Streams whose parts have different names, side by side: forget rows with their refusals, and retain rows in an order of their own.

    Args:
        streams: each gives parts that none of the others gives.
    """

    def __init__(self, *streams: Stream) -> None:
        self.streams = streams

    def next(self, run: Run) -> Parts:
        """The next step's parts of all."""
        return {name: batch for stream in self.streams for name, batch in stream.next(run).items()}

    def state(self) -> dict[str, Any]:
        return {str(i): stream.state() for i, stream in enumerate(self.streams)}

    def load(self, state: Mapping[str, Any]) -> None:
        for i, stream in enumerate(self.streams):
            stream.load(state[str(i)])


class Phases:
    """Streams one after the other, each for a number of steps; the last goes on.

    Args:
        phases: (stream, steps), in order.
    """

    def __init__(self, phases: Sequence[tuple[Stream, int]]) -> None:
        if not phases:
            raise ValueError("phases need at least one stream")
        self.phases, self.taken = tuple(phases), 0

    def next(self, run: Run) -> Parts:
        """The next step of the phase that its number falls into."""
        left = self.taken
        self.taken += 1
        for stream, steps in self.phases[:-1]:
            if left < steps:
                return stream.next(run)
            left -= steps
        return self.phases[-1][0].next(run)

    def state(self) -> dict[str, Any]:
        return {"taken": self.taken, "phases": [stream.state() for stream, _ in self.phases]}

    def load(self, state: Mapping[str, Any]) -> None:
        self.taken = int(state["taken"])
        for (stream, _), inner in zip(self.phases, state["phases"], strict=True):
            stream.load(inner)


class Drawn:
    """Each step comes from one of several streams, drawn by weight; `tell` learns which, before its rows are used.

    Args:
        streams: in the order of their numbers.
        weights: how often each is drawn, for example its number of rows.
        tell: called with the run and the number.
        seed: of the draws; step n's depends on (seed, n) alone.
    """

    def __init__(self, streams: Sequence[Stream], weights: Sequence[float], tell: Callable[[Run, int], None], seed: int = 0) -> None:
        self.streams, self.tell, self.seed, self.taken = tuple(streams), tell, seed, 0
        self.shares = np.asarray(weights, dtype=np.float64) / sum(weights)

    def next(self, run: Run) -> Parts:
        """The next step of the stream that is drawn."""
        number = int(np.random.Generator(np.random.PCG64([self.seed, self.taken])).choice(len(self.streams), p=self.shares))
        self.taken += 1
        self.tell(run, number)
        return self.streams[number].next(run)

    def state(self) -> dict[str, Any]:
        return {"taken": self.taken, "streams": [stream.state() for stream in self.streams]}

    def load(self, state: Mapping[str, Any]) -> None:
        self.taken = int(state["taken"])
        for stream, inner in zip(self.streams, state["streams"], strict=True):
            stream.load(inner)


def passes(rows: Sequence[Row], batch_size: int) -> Iterator[Parts]:
    """All rows once, in order, as parts of `batch_size` rows: for evaluation."""
    for start in range(0, len(rows), batch_size):
        yield collate([rows[i] for i in range(start, min(start + batch_size, len(rows)))])
