"""Short stories about things that are gained and lost, and how many there are now: 1 where the last number of the answer is right, else 0.

The tasks are those of `worlds/arithmetic.py`, calculations of one to `max_steps` steps in words. builtin:tiny gets about a third of them right.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tempering.methods.environments._numbers import Numbers
from tempering.worlds.arithmetic import WordProblems


class Stories(Numbers):
    """One story, one number."""

    kind: Literal["stories"] = "stories"
    max_steps: int = Field(default=2, ge=1, le=6)
    """Most operations in one story."""

    @property
    def world(self) -> WordProblems:
        return WordProblems(self.max_steps)
