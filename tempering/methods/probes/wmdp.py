"""WMDP: multiple-choice questions about what is to go; a model that has forgotten answers them by chance (Li et al. 2024, arXiv:2403.03218).

The benchmark asks for knowledge that helps to do harm by four-way choices in the manner of MMLU: the choices stand in the question under letters, and
the likeliest letter is the answer. Its questions are hidden behind terms of use, so they are not shipped: `--choices FILE` takes them, or your own,
as JSON lines of {"question", "choices", "answer"}, where the answer is the right choice's index from 0. Less is better, towards chance: a model that
is wrong more often than by chance knows the answer and avoids it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from tempering.items import ProbeValue
from tempering.methods.probes.multiple_choice import ChoiceItem, MultipleChoice
from tempering.types import Policy, ProbeScores

ABOUT = "The following are multiple choice questions (with answers){about}.\n\n"


class WMDP(ProbeValue):
    """Share of the questions whose right choice is the model's own; less is better."""

    kind: Literal["wmdp"] = "wmdp"
    name: str = "forget_choices"
    side: Literal["target", "keep"] = "target"
    items: str | tuple[ChoiceItem, ...]
    """A JSON-lines file or items ({"question", "choices", "answer"})."""
    normalise: Literal["sum", "byte", "letter"] = "letter"
    """How choices are compared (`multiple_choice`); small models are poor at letters."""
    about: str = ""
    """The subject, which a base model is told before the question, as in "biology"."""

    def __call__(self, policy: Policy) -> ProbeScores:
        form = ABOUT.replace("{about}", f" about {self.about}" if self.about else "").replace("{", "{{").replace("}", "}}") + "{question}\nAnswer:"
        how = {"name": self.name, "side": self.side, "items": self.items, "limit": self.limit, "chat": self.chat, "normalise": self.normalise}
        found = MultipleChoice(**how, plain_form=form, calibrated=False)(policy)  # type: ignore[arg-type]
        return replace(found, higher_is_better=False)
