"""Guess the number: several turns, and after each the environment says whether the number is larger or smaller. 1 where it was found, else 0.

A conversation of this kind is what tests of masks are made of: between the policy's own tokens stand the environment's, which it must not learn.
Written for this project.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tempering.rollouts.types import Environment, State
from tempering.types import Message, Record
from tempering.worlds.arithmetic import last_number


class Guess(Environment):
    """A number to be found by asking."""

    kind: Literal["guess"] = "guess"
    limit: int = Field(default=20, ge=10)
    """The largest number; every tenth is a test task."""
    tries: int = Field(default=5, ge=1)
    """Most guesses."""

    @property
    def name(self) -> str:
        return f"guess-{self.limit}-{self.tries}"

    def tasks(self, split: Literal["train", "test"], n: int | None = None) -> Sequence[Record]:
        """One for each number."""
        ask = (Message("user", f"Guess my number between 1 and {self.limit}. Say one number."),)
        numbers = [number for number in range(1, self.limit + 1) if (number % 10 == 5) == (split == "test")]
        return tuple(Record(ask, (), id=str(number), source=f"{self.name}:{number}", tags={"answer": str(number)}) for number in numbers[:n])

    async def reset(self, task: Record) -> State:
        """The question; the number stays with the environment."""
        return State(task.prompt, memory={"number": int(task.tags["answer"]), "left": self.tries})

    async def step(self, state: State, answer: str) -> State:
        """Higher, lower, or over."""
        number, left, said = state.memory["number"], state.memory["left"] - 1, last_number(answer)
        if said == number or not left:
            return state.said(answer, done=True, reward=float(said == number))
        hint = "Say a number." if said is None else "It is larger." if said < number else "It is smaller."
        return state.said(answer, Message("user", hint), memory={**state.memory, "left": left})
