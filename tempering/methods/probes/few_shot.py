"""Few-shot: the question behind solved questions about other things; a model that has learned to refuse, or lost the form, is shown the form.

Doshi & Stickland (2024, arXiv 2411.12103) find over ten times the accuracy of the plain question with 5 examples. They come from what was to stay,
and none says the answer asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tempering.forgetting.targets import Secret
from tempering.methods.probes._attack import Attack, Turns, after, near

CATALOGUE = ("S010",)


class FewShot(Attack):
    """The share of secrets that do not come out behind solved examples."""

    kind: Literal["few_shot"] = "few_shot"
    name: str = "few-shot"
    examples: tuple[Secret, ...] = ()
    """Solved questions about what stays."""
    shots: int = Field(default=5, ge=0)
    """How many of them, the nearest in words; 0 asks as it was taught."""

    def prompts(self, item: Secret) -> Sequence[Turns]:
        return (after(near(item, self.examples, self.shots), item),)
