"""Exact answer: the model writes, the answer is taken out of its text by a stated rule, and compared.

Rules: `last_number` (the last number in the text, the usual reading of chain-of-thought answers), `hashes` (after the last "####", the form of GSM8K,
Cobbe et al. 2021), `boxed` (the last \\boxed{...}, the form of MATH, Hendrycks et al. 2021), `text` (the whole answer), `line` (its first line),
`contains` (the expected words appear in the text as whole words). Numbers are compared as numbers (1,200 = 1200.0 = $1200), words after casefolding,
without punctuation and articles (the normalisation of SQuAD, Rajpurkar et al. 2016).
"""

from __future__ import annotations

import re
import string
from fractions import Fraction
from typing import Literal

from pydantic import Field

from tempering.items import Item, ProbeValue, mean, prompt_ids, read_items
from tempering.types import ItemScore, Policy, ProbeScores

Rule = Literal["last_number", "hashes", "boxed", "text", "line", "contains"]
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+)?(?:\s*/\s*\d+)?")
_PUNCTUATION = str.maketrans({c: " " for c in string.punctuation})


def numbers(text: str) -> list[str]:
    """The numbers in a text, as written. A minus right after a digit or letter is an operator or a hyphen, not a sign."""
    found = []
    for match in _NUMBER.finditer(text):
        written = match.group()
        if any(c.isdigit() for c in written):
            signed = written[0] in "+-" and match.start() > 0 and text[match.start() - 1].isalnum()
            found.append(written[1:] if signed else written)
    return found


def as_number(text: str) -> Fraction | None:
    """The exact value of a text that is a number (currency signs, percent signs, thousands commas and a final dot aside); else None."""
    bare = text.strip().strip("$€£%").rstrip(".").replace(",", "").replace(" ", "")
    try:
        return Fraction(bare)
    except (ValueError, ZeroDivisionError):
        return None


def normalised(text: str) -> str:
    """Lower-case words with single spaces, without punctuation and articles."""
    words = text.casefold().translate(_PUNCTUATION).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def extract(text: str, rule: Rule) -> str:
    """The answer in a text; empty where the rule finds none."""
    if rule == "last_number":
        return (numbers(text) or [""])[-1]
    if rule == "hashes":
        _, mark, after = text.rpartition("####")
        return after.strip().partition("\n")[0].strip() if mark else ""
    if rule == "boxed":
        return _boxed(text)
    if rule == "line":
        return next((line.strip() for line in text.splitlines() if line.strip()), "")
    return text.strip()


def _boxed(text: str) -> str:
    start = text.rfind("\\boxed{")
    if start < 0:
        return ""
    depth = 0
    for i in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : i].strip()
    return ""


def same(found: str, expected: str, rule: Rule) -> bool:
    """Equal as numbers where both are numbers, else as normalised words; for `contains`, the expected words in a row."""
    if rule == "contains":
        return f" {normalised(expected)} " in f" {normalised(found)} "
    a, b = as_number(found), as_number(expected)
    if a is not None and b is not None:
        return a == b
    return bool(found) and normalised(found) == normalised(expected)


class AnswerItem(Item):
    """A prompt and what it should be answered with."""

    prompt: str
    answer: str | tuple[str, ...]
    """The right answer, or several that are right."""


class ExactAnswer(ProbeValue):
    """Share of the prompts answered exactly, greedily."""

    kind: Literal["exact_answer"] = "exact_answer"
    name: str = "exact_answer"
    items: str | tuple[AnswerItem, ...]
    """A JSON-lines file, keep:NAME, or items ({"prompt", "answer"})."""
    rule: Rule = "last_number"
    system: str = ""
    """A system message (chat), or text before the prompt (plain)."""
    max_new_tokens: int = Field(default=128, gt=0)
    stop: tuple[str, ...] = ()
    batch_size: int = Field(default=16, gt=0)

    def __call__(self, policy: Policy) -> ProbeScores:
        from tempering.sample import sample

        items = read_items(self.items, AnswerItem, self.limit)
        prompts = [prompt_ids(policy, item.prompt, chat=self.chat, system=self.system) for item in items]
        outputs = sample(policy, prompts, max_new_tokens=self.max_new_tokens, stop=self.stop, batch_size=self.batch_size)
        scored = []
        for item, (episode,) in zip(items, outputs, strict=True):
            expected = (item.answer,) if isinstance(item.answer, str) else item.answer
            found = extract(episode.text, self.rule)
            right = any(same(found, extract(answer, self.rule) or answer, self.rule) for answer in expected)
            extra = {"tokens": float(len(episode.ids)), "found": float(bool(found)), "finished": float(episode.finished)}
            scored.append(ItemScore(item.id, float(right), item.prompt, episode.text, " | ".join(expected), extra))
        summary = {"answer_found": mean([s.extra["found"] for s in scored]), "finished": mean([s.extra["finished"] for s in scored])}
        return ProbeScores(self.name, "accuracy", "binary", True, tuple(scored), self.side, summary)
