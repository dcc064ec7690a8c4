"""Environments whose tasks are a world's questions with a whole number as their answer: one question, one answer, paid by its last number."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tempering.rollouts.types import Environment, Trajectory
from tempering.types import Record
from tempering.worlds.arithmetic import last_number
from tempering.worlds.base import World

if TYPE_CHECKING:
    import numpy as np

MOST = 10_000
"""Tasks, where no number is asked for: some worlds are larger than memory."""


class Numbers(Environment):
    """Abstract: a subclass says which world."""

    wrong: float = Field(default=0.0, ge=0, lt=1)
    """What a wrong number earns; an answer without a number earns nothing (ReFT, arXiv 2401.08967: 0.1)."""

    @property
    def world(self) -> World:
        """Where the questions come from, with worked answers."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        return self.world.name

    @property
    def binary(self) -> bool:
        """Unless a wrong number earns something."""
        return not self.wrong

    def tasks(self, split: Literal["train", "test"], n: int | None = None) -> Sequence[Record]:
        """Questions with the worked answer as their response, no two alike."""
        return tuple(islice(self.world.records(split), n if n is not None else MOST))

    def final(self, answer: str) -> str:
        """Its last number."""
        said = last_number(answer)
        return "" if said is None else str(said)

    def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
        """1, `wrong` or 0 by the last number of the answer."""
        import numpy as np

        return np.array([self._paid(last_number(one.answer), int(one.task.tags["answer"])) for one in played])

    def _paid(self, said: int | None, answer: int) -> float:
        return 1.0 if said == answer else 0.0 if said is None else self.wrong
