"""A grid with a goal that alone pays: walks of mixed quality to learn from, and starts that no walk had to act from.

A walk has at most `horizon` moves of four; the move onto the goal earns 1 and ends it, every other earns 0, and a move into the wall stays where it
is. Walks for learning are those of somebody who goes straight with a skill that is drawn for each walk, and at random else, so many never arrive.
A fifth of the pairs of start and goal, by a keyed order, is kept for the test. Written for this project: sparse rewards and few walks are where Shi
et al. 2023 (LaMo, arXiv 2310.20587) report most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pydantic import Field

from tempering.config import Value
from tempering.worlds.base import Shuffle, checked, rng

MOVES = (("up", 0, -1), ("down", 0, 1), ("left", -1, 0), ("right", 1, 0))
Place = tuple[int, int, int, int]
"""x, y of where one is and x, y of the goal."""


@dataclass(frozen=True)
class Trajectory:
    """What was seen before each action, the action, and what it earned."""

    observations: tuple[tuple[float, ...], ...]
    actions: tuple[int, ...]
    rewards: tuple[float, ...]

    @property
    def returns_to_go(self) -> tuple[float, ...]:
        """R_t, what is earned from step t to the end: R_t - r_t = R_(t+1)."""
        found: list[float] = []
        for reward in reversed(self.rewards):
            found.append(reward + (found[-1] if found else 0.0))
        return tuple(reversed(found))


class Grid(Value):
    """A square of `size` by `size` places, without obstacles."""

    size: int = Field(default=5, ge=2, le=100)
    """Places along a side."""
    horizon: int = Field(default=10, ge=1, le=1000)
    """Moves of a walk at most."""

    @property
    def name(self) -> str:
        return f"grid-{self.size}"

    @property
    def width(self) -> int:
        """Numbers of an observation."""
        return 4

    @property
    def moves(self) -> tuple[str, ...]:
        """The actions by name."""
        return tuple(name for name, _, _ in MOVES)

    @cached_property
    def _order(self) -> Shuffle:
        return Shuffle(self._pairs, "grid", self.size)

    @property
    def _pairs(self) -> int:
        places = self.size**2
        return places * (places - 1)

    def starts(self, split: Literal["train", "test"], n: int | None = None) -> list[Place]:
        """Different pairs of start and goal, always in the same order; none of the test is among those for training.

        Raises:
            UserError: there are not so many.
        """
        test = max(1, self._pairs // 5)
        those = range(test) if split == "test" else range(test, self._pairs)
        return [self._pair(self._order(i)) for i in those[: checked(n, len(those), f"{self.name}, split {split!r}")]]

    def _pair(self, number: int) -> Place:
        places = self.size**2
        start, other = divmod(number, places - 1)
        goal = other + (other >= start)  # No start is its goal.
        return start % self.size, start // self.size, goal % self.size, goal // self.size

    def seen(self, place: Place) -> tuple[float, ...]:
        """The observation: the four coordinates, each from -1 to 1."""
        return tuple(2 * x / (self.size - 1) - 1 for x in place)

    def step(self, place: Place, action: int) -> tuple[Place, float, bool]:
        """Where a move leads, what it earns, and whether it ends the walk."""
        x, y, *goal = place
        _, right, down = MOVES[action]
        x, y = (min(max(at, 0), self.size - 1) for at in (x + right, y + down))
        there = [x, y] == goal
        return (x, y, goal[0], goal[1]), float(there), there

    def walks(self, n: int, seed: int = 0, *, split: Literal["train", "test"] = "train") -> list[Trajectory]:
        """`n` walks of mixed quality, from random ones of the split's starts."""
        starts = self.starts(split)
        found = []
        for i in range(n):
            draw = rng("walk", seed, split, i)
            place, skill, over = draw.choice(starts), draw.random(), False
            walk: list[tuple[tuple[float, ...], int, float]] = []
            while not over and len(walk) < self.horizon:
                action = draw.choice(self.straight(place)) if draw.random() < skill else draw.randrange(len(MOVES))
                here = self.seen(place)
                place, reward, over = self.step(place, action)
                walk.append((here, action, reward))
            observations, actions, rewards = zip(*walk, strict=True)
            found.append(Trajectory(observations, actions, rewards))
        return found

    def straight(self, place: Place) -> Sequence[int]:
        """The actions that lead nearer to the goal; one or two of them."""

        def far(at: Place) -> int:
            return abs(at[0] - at[2]) + abs(at[1] - at[3])

        return [action for action in range(len(MOVES)) if far(self.step(place, action)[0]) < far(place)]
