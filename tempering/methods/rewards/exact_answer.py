"""Exact answer: 1 where the answer that a stated rule takes out of the text is right, else 0; nan where the record does not say what is right.

Rules: `last_number`, `hashes` (after the last "####", the form of GSM8K), `boxed` (\\boxed{...}, the form of MATH), `text` (all of it): those of the
probe of this name, so that what is rewarded is what is measured. Each takes one answer from a text, so that listing many does not pay; different
boxed answers in one text count as none. Compared are mathematics (`_maths.py`: fractions, roots, expressions, units, lists), else words. A prompt
that the answer begins by repeating is left out.

The right answer is the record's "gold", "expected", "target", "solution" or "answer", else its response; of one with "####" or a box, what is there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tempering.config import Value
from tempering.methods.probes.exact_answer import extract, normalised
from tempering.methods.rewards import _checked, _maths
from tempering.types import Prompt, Record

if TYPE_CHECKING:
    import numpy as np

FAMILY = "checked"
_LONGEST = 100_000
"""Characters of an answer that are looked at, its last ones."""


class ExactAnswer(Value):
    """Whether the answer is right."""

    kind: Literal["exact_answer"] = "exact_answer"
    rule: Literal["last_number", "hashes", "boxed", "text"] = "last_number"
    """Where the answer stands in the text."""
    tolerance: float = Field(default=0.0, ge=0)
    """Relative difference of numbers that is let pass; 0 asks for the exact value."""

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str], records: Sequence[Record]) -> np.ndarray:
        """float64 [N]."""
        import numpy as np

        triples = zip(prompts, answers, records, strict=True)
        return np.array([self._score(_checked.own(prompt, answer), record) for prompt, answer, record in triples], dtype=np.float64)

    def _score(self, answer: str, record: Record) -> float:
        if not (wanted := [one for one in _checked.right(record) if one.strip()]):
            return float("nan")
        found = self._found(answer[-_LONGEST:])
        return float(bool(found) and any(self._same(found, self._expected(one)) for one in wanted))

    def _found(self, answer: str) -> str:
        if self.rule == "boxed":
            boxes = [extract(f"\\boxed{{{part}", "boxed") for part in answer.split("\\boxed{")[1:]]
            if any(not _maths.same(box, boxes[-1]) for box in boxes[:-1]):
                return ""
        found = extract(answer, self.rule)
        # "1" has many look-alikes in Unicode; an answer is written with one kind of digit.
        return "" if any(c.isdecimal() and not c.isascii() for c in found) else found

    def _expected(self, right: str) -> str:
        return extract(right, "hashes") or extract(right, "boxed") or extract(right, self.rule) or right

    def _same(self, found: str, expected: str) -> bool:
        if _maths.same(found, expected, tolerance=self.tolerance):
            return True
        words = normalised(found)
        return bool(words) and not re.search(r"\d", words) and words == normalised(expected)
