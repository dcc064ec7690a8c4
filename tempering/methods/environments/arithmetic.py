"""Sums, differences and products of whole numbers, one answer each: 1 where the last number of the answer is right, else 0.

The tasks are those of `worlds/arithmetic.py`: a pair of numbers that is held out is held out in every wording and order. builtin:tiny was taught sums
and differences of two digits and gets about five of six right.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tempering.rollouts.types import Environment, Trajectory
from tempering.types import Record
from tempering.worlds.arithmetic import Arithmetic as World
from tempering.worlds.arithmetic import last_number

if TYPE_CHECKING:
    import numpy as np

MOST = 10_000
"""Tasks, where no number is asked for: worlds of many digits are larger than memory."""


class Arithmetic(Environment):
    """One question, one answer."""

    kind: Literal["arithmetic"] = "arithmetic"
    operations: tuple[Literal["add", "subtract", "multiply"], ...] = ("add", "subtract")
    """What is asked for."""
    digits: int = Field(default=2, ge=1, le=12)
    """Of the larger number."""
    wrong: float = Field(default=0.0, ge=0, lt=1)
    """What a wrong number earns; an answer without a number earns nothing (ReFT, arXiv 2401.08967: 0.1)."""

    @property
    def name(self) -> str:
        return self._world.name

    @property
    def binary(self) -> bool:
        """Unless a wrong number earns something."""
        return not self.wrong

    @property
    def _world(self) -> World:
        return World(self.operations, self.digits, steps=True)

    def tasks(self, split: Literal["train", "test"], n: int | None = None) -> Sequence[Record]:
        """Questions, each pair of numbers once an operation, with the worked answer as their response."""
        return tuple(islice(self._world.records(split), n if n is not None else MOST))

    def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
        """1, `wrong` or 0 by the last number of the answer."""
        import numpy as np

        return np.array([self._paid(last_number(one.answer), int(one.task.tags["answer"])) for one in played])

    def _paid(self, said: int | None, answer: int) -> float:
        return 1.0 if said == answer else 0.0 if said is None else self.wrong
