"""Sums, differences and products of whole numbers, one answer each: 1 where the last number of the answer is right, else 0.

The tasks are those of `worlds/arithmetic.py`: a pair of numbers that is held out is held out in every wording and order. builtin:tiny was taught sums
and differences of two digits and gets about five of six right.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tempering.methods.environments._numbers import Numbers
from tempering.worlds.arithmetic import Arithmetic as World


class Arithmetic(Numbers):
    """One question, one answer."""

    kind: Literal["arithmetic"] = "arithmetic"
    operations: tuple[Literal["add", "subtract", "multiply"], ...] = ("add", "subtract")
    """What is asked for."""
    digits: int = Field(default=2, ge=1, le=12)
    """Of the larger number."""

    @property
    def world(self) -> World:
        return World(self.operations, self.digits, steps=True)
