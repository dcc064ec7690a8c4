"""A weighted sum of rewards: correctness with a little for the form, less what is too long. `1*exact_answer + 0.1*format`, or values from Python.

Where one of them knows no score (nan), the sum knows none. A weight says how much of one is worth how much of another, so look at them apart first:
`temper reward try`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator

from tempering import index
from tempering.config import Value
from tempering.types import Prompt, Record

if TYPE_CHECKING:
    import numpy as np

FAMILY = "checked"
_TERM = re.compile(r"\s*(?:(-?\d+(?:\.\d+)?)\s*\*)?\s*([a-z_]+)\s*")


class Weighted(Value):
    """sum of weight * reward."""

    kind: Literal["weighted"] = "weighted"
    of: Any
    """Names with their weights, "1*exact_answer + 0.1*format", with the defaults of each; from Python also pairs (weight, reward)."""

    @field_validator("of", mode="after")
    @classmethod
    def _terms(cls, of: Any) -> Any:
        if not isinstance(of, str):
            terms = tuple(tuple(term) for term in of)
            if not terms or any(len(term) != 2 or not callable(term[1]) for term in terms):
                raise ValueError("expected pairs of a weight and a reward, at least one")
            return terms
        return tuple(_term(part) for part in of.split("+"))

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str], records: Sequence[Record]) -> np.ndarray:
        """float64 [N]."""
        import numpy as np

        return np.sum([weight * np.asarray(reward(prompts, answers, records), dtype=np.float64) for weight, reward in self.of], axis=0)


def _term(text: str) -> tuple[float, Any]:
    match = _TERM.fullmatch(text)
    entries = {entry.name: entry for entry in index.methods("reward") if entry.family == FAMILY and entry.name != "weighted"}
    if match is None:
        raise ValueError(f"{text.strip()!r} is no weight * reward, for example 0.1*format")
    if match[2] not in entries:
        raise ValueError(f"there is no reward {match[2]!r}{index.closest(match[2], entries)}; there are {', '.join(sorted(entries))}")
    return float(match[1] or 1), index.load(entries[match[2]])()
