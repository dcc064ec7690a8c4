"""Multiple choice by log-probability: the choice that the model finds most likely is its answer, nothing is generated.

How log-probs of choices of different lengths are compared is part of the method: `sum` takes the whole log-prob (favours short choices);
`byte` divides it by the choice's UTF-8 bytes (independent of the tokenizer; `acc_norm` of Gao et al. 2021, lm-evaluation-harness);
`letter` lists the choices
as A, B, C in the question and compares the letters (Robinson et al. 2023, arXiv:2210.12353; small models are poor at it). The confidence is the
softmax of the compared numbers; for `byte` they are put back on the item's mean length first, else all confidences would be near uniform. So
calibration comes at no cost: the summary has ECE, Brier and AUROC, and `derived` gives Brier scores item by item.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from tempering.items import Item, ProbeValue, answer_ids, mean, prompt_ids, read_items
from tempering.methods.probes.calibration import brier_scores, summarise
from tempering.types import ItemScore, Policy, ProbeScores


class ChoiceItem(Item):
    """A question, its choices, and which of them is right."""

    question: str
    choices: tuple[str, ...] = Field(min_length=2, max_length=26)
    answer: int = Field(ge=0)
    """Index of the right choice, from 0."""

    @model_validator(mode="after")
    def _answer_is_a_choice(self) -> ChoiceItem:
        if self.answer >= len(self.choices):
            raise ValueError(f"answer is {self.answer}, the last choice is {len(self.choices) - 1}")
        if len(set(self.choices)) < len(self.choices) or not all(self.choices):
            raise ValueError("choices must differ and not be empty")
        return self


class MultipleChoice(ProbeValue):
    """Share of the questions whose right choice has the best log-prob."""

    kind: Literal["multiple_choice"] = "multiple_choice"
    name: str = "multiple_choice"
    items: str | tuple[ChoiceItem, ...]
    """A JSON-lines file, keep:NAME, or items ({"question", "choices", "answer"})."""
    normalise: Literal["sum", "byte", "letter"] = "byte"
    plain_form: str = "{question}\nAnswer:"
    """The prompt where there is no chat template (or chat=False); a space goes before the choice there."""
    calibrated: bool = True
    """Also report Brier scores as `NAME.calibration`."""

    def __call__(self, policy: Policy) -> ProbeScores:
        from tempering.measure import logps_of

        items = read_items(self.items, ChoiceItem, self.limit)
        pairs, prompts = [], []
        for item in items:
            text, choices, lead = self._asked(item, policy)
            prompts.append(text)
            ids = prompt_ids(policy, text, chat=self.chat)
            pairs += [(ids, answer_ids(policy, lead + choice)) for choice in choices]
        totals = iter([float(logp.sum()) for logp in logps_of(policy, pairs)])
        scored = [self._scored(item, [next(totals) for _ in item.choices], prompt) for item, prompt in zip(items, prompts, strict=True)]
        summary = summarise([s.extra["confidence"] for s in scored], [s.score == 1.0 for s in scored])
        summary["chance"] = mean([1 / len(item.choices) for item in items])
        return ProbeScores(self.name, "accuracy", "binary", True, tuple(scored), self.side, summary)

    def derived(self, scores: ProbeScores) -> tuple[ProbeScores, ...]:
        return (brier_scores(scores),) if self.calibrated else ()

    def _asked(self, item: ChoiceItem, policy: Policy) -> tuple[str, tuple[str, ...], str]:
        """(prompt text, the texts whose log-probs are compared, what goes before each)"""
        choices, question = item.choices, item.question
        if self.normalise == "letter":
            choices = tuple(chr(ord("A") + i) for i in range(len(item.choices)))
            question = "\n".join([question, *(f"{letter}. {choice}" for letter, choice in zip(choices, item.choices, strict=True))])
        chat = self.chat if self.chat is not None else getattr(policy.tokenizer, "chat_template", None) is not None
        return (question, choices, "") if chat else (self.plain_form.format(question=question), choices, " ")

    def _scored(self, item: ChoiceItem, logps: list[float], prompt: str) -> ItemScore:
        if self.normalise == "byte":
            sizes = [len(choice.encode()) for choice in item.choices]
            logps = [logp * mean(sizes) / size for logp, size in zip(logps, sizes, strict=True)]
        best = max(range(len(logps)), key=logps.__getitem__)
        confidence = 1 / sum(math.exp(logp - logps[best]) for logp in logps)
        return ItemScore(
            item.id,
            float(best == item.answer),
            prompt,
            item.choices[best],
            item.choices[item.answer],
            {"confidence": confidence, "choice": float(best)},
        )
