"""A reward model's score as a reward by name: a folder that a reward recipe wrote, or an ensemble of them, whose worst score then counts.

`--env records --env.data prompts.jsonl --env.reward judged --env.reward.model runs/reward/model`. The score is in the model's own units; whatever
subtracts a baseline makes their zero point of no account.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from tempering.config import Value
from tempering.types import Prompt, Record, Reward

if TYPE_CHECKING:
    import numpy as np

FAMILY = "checked"


class Judged(Value):
    """The score of a saved reward model."""

    kind: Literal["judged"] = "judged"
    model: str
    """Its folder or hub id; several with commas between count by their worst score."""

    @cached_property
    def _reward(self) -> Reward:
        from tempering.methods.rewards._saved import named

        return named(self.model)

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str], records: Sequence[Record]) -> np.ndarray:
        """float64 [N]; the records say nothing more to it."""
        return self._reward(prompts, answers)
