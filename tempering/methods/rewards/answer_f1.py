"""Answer F1: the words that an answer shares with the right one, and what its form is worth.

    worth = right * F1 + (formed, where the form is right; malformed, where it is not),   F1 = 2 * common / (said + wanted)

over words (lower case, no punctuation, no articles), counted as often as they stand; of several right answers the best counts. The form is right
where one answer can be taken out of the text, it has at most `most_words` words, so that listing candidates does not pay, and calls no tool, so
that asking on is no answer; else F1 is 0.

R1-Searcher (Song et al. 2025, arXiv 2503.05592, S062): its first stage pays the form and the search alone (right 0, formed 0.5, malformed 0; 0.5 for
the first search is `--env.searching`), its second F1 with 2 less for a bad form (the defaults). See `temper run r1_searcher`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tempering.config import Value
from tempering.methods.probes.exact_answer import normalised
from tempering.methods.rewards import _checked
from tempering.types import Prompt, Record

if TYPE_CHECKING:
    import numpy as np

FAMILY = "checked"
CATALOGUE = ("S062",)
CALL = "<tool_call>"
"""What a call begins with."""


class AnswerF1(Value):
    """F1 of words, and the form."""

    kind: Literal["answer_f1"] = "answer_f1"
    rule: Literal["text", "tag"] = "text"
    """Where the answer stands: it is all of the text, or what stands between one <answer> and </answer>."""
    most_words: int = Field(default=10, gt=0)
    """A longer answer is malformed."""
    right: float = 1.0
    """What F1 counts for."""
    formed: float = 0.0
    """What the right form earns by itself."""
    malformed: float = -2.0
    """What another form earns."""

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str], records: Sequence[Record]) -> np.ndarray:
        """float64 [N]; nan where the record does not say what is right."""
        import numpy as np

        triples = zip(prompts, answers, records, strict=True)
        return np.array([self._score(_checked.own(prompt, answer), _checked.right(record)) for prompt, answer, record in triples], np.float64)

    def _score(self, answer: str, wanted: Sequence[str]) -> float:
        if not wanted:
            return float("nan")
        if (said := self._said(answer)) is None:
            return self.malformed
        return self.right * max(self.f1(said, one) for one in wanted) + self.formed

    def _said(self, answer: str) -> str | None:
        if self.rule == "tag":
            inside = re.findall(r"<answer>(.*?)</answer>", answer, re.DOTALL)
            answer = inside[0] if len(inside) == 1 == answer.count("<answer>") else ""
        return answer if 0 < len(answer.split()) <= self.most_words and CALL not in answer else None

    @staticmethod
    def f1(said: str, wanted: str) -> float:
        """2 * common words / all words of both; 0 where neither has any."""
        one, other = Counter(normalised(said).split()), Counter(normalised(wanted).split())
        return 2 * (one & other).total() / max(one.total() + other.total(), 1)
