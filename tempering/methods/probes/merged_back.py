"""Merged back: the weights are taken a part of the way back to those before forgetting.

How shallow the change is: if a quarter of the way brings most secrets back, so will many a merge with a sister of the old model, or an average of
checkpoints. Whoever holds the old weights needs no attack, so this is told beside the verdict. All the way back is the start by construction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from tempering.methods.probes._attack import BESIDE
from tempering.methods.probes._dial import Dial
from tempering.types import Policy


class MergedBack(Dial):
    """The share of secrets that do not come out on the way back to the start."""

    kind: Literal["merged_back"] = "merged_back"
    name: str = "merged back"
    start: str
    """The model before forgetting: anything that can be loaded."""
    shares: tuple[float, ...] = (0.25, 0.5)
    """How much of the way back; 0 is the model as it is, 1 the start."""
    metric: ClassVar[str] = BESIDE
    note: ClassVar[str] = "part of the way back to the old weights: who holds those needs no attack, but it shows how shallow the change is"
    unit: ClassVar[str] = "out at {:g} of the way"

    def along(self, policy: Policy, look: Callable[[float, Policy], None]) -> None:
        from tempering.forgetting.copies import way_back

        way_back(policy, self.start, sorted(self.shares), look)
