"""Walks that somebody recorded: a JSON-lines file with a walk a line, for decision transformers.

    {"observations": [[0.1, -0.5], [0.2, -0.5]], "actions": [3, 0], "rewards": [0, 1]}

What was seen before each action, as numbers (between about -1 and 1 is best: they are taken as they stand), the action, numbered from 0, and what it
earned.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from tempering.errors import UserError
from tempering.items import Item, read_items
from tempering.worlds.grid import Trajectory


class Walk(Item):
    """One line."""

    observations: Annotated[tuple[Annotated[tuple[float, ...], Field(min_length=1)], ...], Field(min_length=1)]
    actions: tuple[Annotated[int, Field(ge=0)], ...]
    rewards: tuple[float, ...]

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        counts = [len(self.observations), len(self.actions), len(self.rewards)]
        if len(set(counts)) > 1:
            raise ValueError(f"{counts[0]} observations, {counts[1]} actions and {counts[2]} rewards; give as many of each")
        return self


def recorded(path: str) -> list[Trajectory]:
    """All walks of a file.

    Raises:
        UserError: it cannot be read, a line is no walk (names file, line and field), or observations differ in their number of numbers.
    """
    walks = read_items(path, Walk)
    width = len(walks[0].observations[0])
    for walk in walks:
        if wrong := next((seen for seen in walk.observations if len(seen) != width), None):
            raise UserError(f"{walk.id}: an observation of {len(wrong)} numbers where the file's first has {width}; give as many in each")
    return [Trajectory(walk.observations, walk.actions, walk.rewards) for walk in walks]
