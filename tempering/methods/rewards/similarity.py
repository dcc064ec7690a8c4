"""Similarity: how many words an answer shares with the text that it rewrites, so that what is said stays while how it is said changes.

    F1 = 2 * common / (said + given)

over words (lower case, no punctuation, no articles), counted as often as they stand; 1 for the text itself, whatever its case, and 0 for no answer.
One of the metrics that metric-oriented reinforcement learning adds up (`weighted`): Diao et al. 2023, "Doolittle", EMNLP (S242), whose similarity is
one of sentence embeddings, so that it knows words that mean the same; this one knows words alone. With `to` "right" the answer is compared with the
record's, and of several the best counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from tempering.config import Value
from tempering.methods.rewards import _checked
from tempering.methods.rewards.answer_f1 import AnswerF1
from tempering.types import Prompt, Record

if TYPE_CHECKING:
    import numpy as np

FAMILY = "checked"
CATALOGUE = ("S242",)


class Similarity(Value):
    """From 0 to 1."""

    kind: Literal["similarity"] = "similarity"
    to: Literal["prompt", "right"] = "prompt"
    """The prompt's last message, or the record's right answer."""
    behind: str = ""
    """Compare with what stands behind the first of these in the prompt, so that the instruction is no part of it; without one in it, with all."""

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str], records: Sequence[Record]) -> np.ndarray:
        """float64 [N]; nan where there is nothing to compare with."""
        import numpy as np

        triples = zip(prompts, answers, records, strict=True)
        return np.array([self._score(answer, self._given(prompt, record)) for prompt, answer, record in triples], np.float64)

    def _given(self, prompt: Prompt, record: Record) -> tuple[str, ...]:
        if self.to == "right":
            return _checked.right(record)
        text = prompt if isinstance(prompt, str) else prompt[-1].content if prompt else ""
        start = text.find(self.behind) + len(self.behind) if self.behind in text else 0
        return (text[start:],)

    @staticmethod
    def _score(answer: str, given: Sequence[str]) -> float:
        known = [text for text in given if text.strip()]
        return max(AnswerF1.f1(answer, text) for text in known) if known else float("nan")
