"""Quantised: the linear layers of a copy are rounded to few bits, as a model is before it is handed on.

Steps of unlearning are often smaller than half the distance of two levels, so rounding takes them back: Zhang et al. (2024, arXiv 2410.16454) find
21% of what was forgotten in full precision and 83% in 4 bits. Plain symmetric round-to-nearest, without any package: a scale for each row in 8
bits, for each 64 weights in 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from pydantic import Field

from tempering.methods.probes._attack import Attack
from tempering.types import Policy


class Quantised(Attack):
    """The share of secrets that do not come out of the rounded model."""

    kind: Literal["quantised"] = "quantised"
    name: str = "quantised to 4 bits"
    bits: int = Field(default=4, ge=2, le=16)
    """Bits of a weight."""

    @contextmanager
    def on(self, policy: Policy) -> Iterator[Policy]:
        from tempering.forgetting.copies import quantise

        yield quantise(policy, self.bits)
