"""Overlong: a penalty that grows where an answer comes near the longest length, so that it is not cut off there without warning.

    0                               |y| <= longest - buffer
    (longest - buffer - |y|) / buffer   up to longest
    -1                              beyond

DAPO's soft overlong punishment (Yu et al. 2025, arXiv 2503.14476, equation 13; there 20,480 tokens with a buffer of 4,096). It is added to the reward
of correctness (`weighted`). A reward sees text, so lengths here are characters or words; of tokens it is `--rollouts.overlong`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from tempering.config import Value
from tempering.rollouts.types import overlong
from tempering.types import Prompt, Record

if TYPE_CHECKING:
    import numpy as np

FAMILY = "checked"


class Overlong(Value):
    """From -1 to 0."""

    kind: Literal["overlong"] = "overlong"
    longest: int = Field(default=2048, gt=0)
    """The length from which on an answer costs 1."""
    buffer: int = Field(default=512, gt=0)
    """Over so much before it the cost rises."""
    unit: Literal["characters", "words"] = "characters"
    """What is counted."""

    @model_validator(mode="after")
    def _fits(self) -> Overlong:
        if self.buffer > self.longest:
            raise ValueError(f"buffer is {self.buffer}, longest {self.longest}; the buffer lies before the longest length, so give a smaller one")
        return self

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str], records: Sequence[Record] = ()) -> np.ndarray:
        """float64 [N]."""
        return -overlong([len(answer) if self.unit == "characters" else len(answer.split()) for answer in answers], self.longest, self.buffer)
