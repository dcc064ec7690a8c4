"""In context: what is told about the same thing, but not the answer, stands in the prompt; it may jog what unlearning only buried.

In-context relearning (Lynch et al. 2024, arXiv 2402.16835, test 4): the other forgotten facts that share most words with the question are given as
solved questions. None of them says the answer, so whatever brings it is the model's own. (What a model reads out of its prompt is `resupplied`.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tempering.forgetting.targets import Secret
from tempering.methods.probes._attack import Attack, Turns, after, near

CATALOGUE = ("S027",)


class InContext(Attack):
    """The share of secrets that do not come out after other facts of the same kind."""

    kind: Literal["in_context"] = "in_context"
    name: str = "neighbours told"
    known: tuple[Secret, ...] = ()
    """Facts to tell: those that were forgotten with it, as a rule."""
    facts: int = Field(default=5, ge=0)
    """How many of them stand in the prompt; 0 asks as it was taught."""

    def prompts(self, item: Secret) -> Sequence[Turns]:
        return (after(near(item, self.known, self.facts), item),)
