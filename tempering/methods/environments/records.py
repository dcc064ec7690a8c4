"""Prompts of any data, one answer each, scored by a reward that sees the record: `--env records --env.data my.jsonl --env.reward NAME`.

Held-out records are `test`, or a tenth of the data, at most 200, the same for every seed; records with one prompt stay together. What a reward cannot
score takes no part in learning.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tempering.errors import UserError
from tempering.methods.rewards import AnyReward
from tempering.rollouts.types import Environment, Trajectory
from tempering.types import Message, Record

if TYPE_CHECKING:
    import numpy as np


class Records(Environment):
    """The prompts of a file, a folder, a hub id or a built-in set."""

    kind: Literal["records"] = "records"
    data: str = "builtin:demo"
    """Where the prompts, and what the reward wants to know of them, stand."""
    test: str | None = None
    """Held-out ones; by default those of a built-in set, or some of the data."""
    shape: str = "auto"
    """How to read the rows."""
    limit: int | None = Field(default=None, ge=1)
    """Read at most this many."""
    system: str = ""
    """A system message before each prompt that has none."""
    reward: AnyReward
    """What an answer is worth."""

    @property
    def name(self) -> str:
        return f"{Path(self.data).name.partition('.')[0]}, {self.reward.kind}"

    @property
    def binary(self) -> bool:
        """A reward may be any number."""
        return False

    @cached_property
    def _divided(self) -> tuple[list[Record], list[Record]]:
        from tempering.feed import source
        from tempering.lessons import split

        def read(data: str) -> list[Record]:
            return list(islice(source(data, self.shape, self.limit, lambda _: None), self.limit))

        test = f"{self.data}-test" if self.test is None and self.data.startswith("builtin:") else self.test
        return (read(self.data), read(test)) if test is not None else split(read(self.data), 200, 0)

    def tasks(self, split: Literal["train", "test"], n: int | None = None) -> Sequence[Record]:
        """The records whose prompt a chat can begin with.

        Raises:
            UserError: the data cannot be read, or nothing can be held out.
        """
        found = [self._spoken(record) for record in self._divided[split == "test"] if record.prompt]
        if not found:
            raise UserError(f"data {self.data}: no {split} record has a prompt to answer")
        return found[:n]

    def _spoken(self, record: Record) -> Record:
        if not self.system or record.prompt[0].role in ("system", "text"):
            return record
        from dataclasses import replace

        return replace(record, prompt=(Message("system", self.system), *record.prompt))

    def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
        """The reward's scores."""
        import numpy as np

        given: Any = [one.task.prompt for one in played], [one.answer for one in played], [one.task for one in played]
        return np.asarray(self.reward(*given), np.float64)

    def along(self, played: Sequence[Trajectory], tokenizer: Any) -> Sequence[np.ndarray] | None:
        """What a reward that blames lines takes from their tokens."""
        if not (fine := getattr(self.reward, "fine", 0.0)):
            return None
        from tempering.rollouts.rows import covering

        reward: Any = self.reward
        spans = reward.blamed([one.task.prompt for one in played], [one.answer for one in played], [one.task for one in played])
        return [-fine * covering(tokenizer, one.turns[-1].ids, *span) for one, span in zip(played, spans, strict=True)]
