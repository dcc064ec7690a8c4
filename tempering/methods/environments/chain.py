"""A walk along a chain: a wrong step leads off it, to where no demonstration has ever been. Each right move earns its share of 1.

Errors compound where a policy only learned from walks without one. Let it err on a stone with chance e and in the water with chance q. If it never
finds out of the water (q = 1), it makes sum over t of 1 - (1 - e)^t wrong moves in T steps, e T (T + 1) / 2 at most: behaviour cloning's T^2 e. If it
errs there no more often than on stones (q = e), it makes T e. Ross and Bagnell 2010 ("Efficient Reductions for Imitation Learning") prove both; Sun
2023 (arXiv 2310.06147) takes it as the reason why reinforcement, which learns where its own steps lead, does better than supervised fine-tuning.
`mistakes` computes what lies between. Written for this project.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from tempering.rollouts.types import Environment, State
from tempering.types import Message, Record, Response

CATALOGUE = ("S205",)
_MOVES = ("left", "ahead", "right")


class Chain(Environment):
    """Stones in a row, each with its own direction to the next."""

    kind: Literal["chain"] = "chain"
    length: int = Field(default=12, ge=1)
    """Of a walk."""
    stones: int = Field(default=20, ge=10, le=100)
    """After the last comes the first; walks that begin at every fifth are test tasks."""

    @property
    def name(self) -> str:
        return f"chain-{self.length}"

    @property
    def binary(self) -> bool:
        """A walk earns its share of right moves."""
        return False

    def tasks(self, split: Literal["train", "test"], n: int | None = None) -> Sequence[Record]:
        """One for each stone to begin at, with a walk without a wrong step as its response."""
        begins = [stone for stone in range(self.stones) if (stone % 5 == 4) == (split == "test")]
        return tuple(self._task(stone) for stone in begins[:n])

    def _task(self, stone: int) -> Record:
        said: list[Message] = []
        for at in range(stone, stone + self.length):
            said += [_where(at % self.stones, False), Message("assistant", self.right(at % self.stones, False))]
        return Record((said[0],), (Response(tuple(said[1:])),), id=str(stone), source=f"{self.name}:{stone}", tags={"stone": stone})

    @staticmethod
    def right(stone: int, water: bool) -> str:
        """The right move: of each stone its own, and out of the water beside it another."""
        return _MOVES[(stone * stone // 2 + stone + water) % 3]

    async def reset(self, task: Record) -> State:
        """On the first stone."""
        return State(task.prompt, memory={"stone": int(task.tags["stone"]), "water": False, "left": self.length, "wrong": [], "wet": []})

    async def step(self, state: State, answer: str) -> State:
        """On the next stone after a right move, on the same one out of the water; in the water after a wrong one."""
        m: dict[str, Any] = dict(state.memory)
        right = answer.strip().lower() == self.right(m["stone"], m["water"])
        stone = (m["stone"] + (right and not m["water"])) % self.stones
        memory = {"stone": stone, "water": not right, "left": m["left"] - 1, "wrong": [*m["wrong"], not right], "wet": [*m["wet"], m["water"]]}
        more = (_where(stone, not right),) if memory["left"] else ()
        return state.said(answer, *more, done=not more, reward=right / self.length, memory=memory)

    def mistakes(self, stone: float, water: float) -> float:
        """Wrong moves to be expected of a walk.

        Args:
            stone: the chance of one on a stone.
            water: the chance of one in the water.
        """
        wet = total = 0.0
        for _ in range(self.length):
            wet = (1 - wet) * stone + wet * water
            total += wet
        return total


def _where(stone: int, water: bool) -> Message:
    return Message("user", f"You are in the water at {stone}." if water else f"You stand on stone {stone}.")
