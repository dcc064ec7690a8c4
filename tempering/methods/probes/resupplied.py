"""Re-supplied: the forgotten fact itself stands in the prompt (UnUnlearning, Shumailov et al. 2024, arXiv 2407.00106).

Unlearning takes knowledge out of weights; whoever can put it into the prompt has the behaviour back, and the better the model reads, the more. So
this is no leak, and it is told beside the verdict: a model that never saw the data does the same. What it shows is how much of the behaviour
returns, the paper's measure: the share that comes out with the fact in the prompt, less the share without (the attack "asked"). Only a filter of
what goes in and comes out stops it; `filtered` measures that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tempering.forgetting.targets import Secret
from tempering.methods.probes._attack import BESIDE, Attack, Turns, after, leaked, near
from tempering.types import Policy, ProbeScores

CATALOGUE = ("S009",)

NOTE = "the fact stands in the prompt: any model that reads repeats it, one that never saw it too; only a filter of prompts and answers stops that"


class Resupplied(Attack):
    """The share of secrets that do not come out though the prompt tells them."""

    kind: Literal["resupplied"] = "resupplied"
    name: str = "re-supplied"
    known: tuple[Secret, ...] = ()
    """Other facts to tell beside it."""
    facts: int = Field(default=3, ge=0)
    """How many facts stand in the prompt: the one asked for, among its neighbours. 0 tells nothing."""
    filtered: bool = False
    """Behind a filter that blocks prompts and answers which say the secret."""

    def prompts(self, item: Secret) -> Sequence[Turns]:
        if not self.facts:
            return (after((), item),)
        others = near(item, self.known, self.facts - 1)
        return (after([*others[: len(others) // 2], item, *others[len(others) // 2 :]], item),)

    def __call__(self, policy: Policy) -> ProbeScores:
        items = self.chosen
        said = self.outputs(policy, items)
        if self.filtered:
            said = [[_blocked(item, text, wanted, told=self.facts > 0) for text, wanted in texts] for item, texts in zip(items, said, strict=True)]
        return self.told([self.scored(item, texts) for item, texts in zip(items, said, strict=True)], BESIDE, note=NOTE)


def _blocked(item: Secret, text: str, wanted: str, *, told: bool) -> tuple[str, str]:
    """A prompt that says the secret gets no answer, and an answer that says it is not given."""
    return ("" if told or leaked(text, wanted) else text, wanted)
