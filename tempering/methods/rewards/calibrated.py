"""Calibrated: pays for knowing whether one is right: the answer is compared with the right one, and the confidence that it states with that.

    R = 1 - 2 (correct - confidence)^2        correct 0 or 1, confidence 0 to 1

SaySelf, stage 2 (S228, Xu et al. 2024, arXiv 2405.20974), in the form of its released code. It is a proper score: whoever is right with chance p
earns most by saying p, and then the more the further p is from a half, so that being wrong and saying so pays as being right and saying so. The first
line of an answer is what is compared, so that a reflection behind it may name other answers; the confidence stands behind "Confidence:", as a
percentage or a share. Without one, with several, or outside 0 to 100% an answer earns -1, what the surest wrong one does.
`methods/streams/say_self.py` (stage 1) teaches this form.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from tempering.config import Value
from tempering.methods.rewards import _checked
from tempering.methods.rewards.exact_answer import ExactAnswer
from tempering.types import Prompt, Record

if TYPE_CHECKING:
    import numpy as np

FAMILY = "checked"
_STATED = re.compile(r"confidence:[ \t]*(?:([0-9]{1,6}(?:\.[0-9]{1,6})?)[ \t]*(%?))?", re.IGNORECASE)


class Calibrated(Value):
    """From -1 to 1."""

    kind: Literal["calibrated"] = "calibrated"
    rule: Literal["last_number", "boxed", "text"] = "last_number"
    """Where the answer stands in the first line: the rules of `exact_answer`."""

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str], records: Sequence[Record]) -> np.ndarray:
        """float64 [N]; nan where the record does not say what is right."""
        import numpy as np

        own = [_checked.own(prompt, answer).strip() for prompt, answer in zip(prompts, answers, strict=True)]
        first = [_STATED.split(text)[0].partition("\n")[0] for text in own]
        correct_N = ExactAnswer(rule=self.rule)(prompts, first, records)
        return np.where(np.isnan(correct_N), np.nan, [_score(correct, self.stated(text)) for correct, text in zip(correct_N, own, strict=True)])

    @staticmethod
    def stated(text: str) -> float | None:
        """The one confidence that a text states, 0 to 1; None where it states none, several, or one that is none."""
        found = _STATED.findall(text)
        if len(found) != 1 or not found[0][0]:
            return None
        value = float(found[0][0]) / (100 if found[0][1] else 1)
        return value if value <= 1 else None


def _score(correct: float, confidence: float | None) -> float:
    return -1.0 if confidence is None else 1 - 2 * (correct - confidence) ** 2
