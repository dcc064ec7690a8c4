"""A weighted sum of rewards: correctness with a little for the form, less what is too long.

`exact_answer(rule=boxed) + 0.1*format + overlong(longest=4000; buffer=800)`: names with their weights, 1 where none is given, and with their fields.
Where one of them knows no score (nan), the sum knows none. A weight says how much of one is worth how much of another, so look at each apart first
(`temper reward try`).

Several metrics of one text make metric-oriented reinforcement learning (Diao et al. 2023, "Doolittle", EMNLP, S242): a classifier's score, likeness
to what is rewritten, and fluency, whose weights in its released notebook for BART are
`0.01*judged(model=C) + 0.01*similarity + fluency(model=L)`. Its fourth metric, BARTScore, is not here. The classifier is what `temper run
reward_regression` makes of answers rated 0 and 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError, field_validator

from tempering import index
from tempering.config import Value
from tempering.types import Prompt, Record

if TYPE_CHECKING:
    import numpy as np

FAMILY = "checked"
CATALOGUE = ("S242",)
_TERM = re.compile(r"\s*(?:(-?\d+(?:\.\d+)?)\s*\*)?\s*([a-z_]+)\s*(?:\((.*)\))?\s*", re.DOTALL)


class Weighted(Value):
    """sum of weight * reward."""

    kind: Literal["weighted"] = "weighted"
    of: str
    """The sum, as above."""

    @field_validator("of")
    @classmethod
    def _readable(cls, of: str) -> str:
        _terms(of)
        return of

    @cached_property
    def terms(self) -> tuple[tuple[float, Any], ...]:
        """Weights and rewards."""
        return _terms(self.of)

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str], records: Sequence[Record]) -> np.ndarray:
        """float64 [N]."""
        import numpy as np

        return np.sum([weight * np.asarray(reward(prompts, answers, records), dtype=np.float64) for weight, reward in self.terms], axis=0)


def _terms(of: str) -> tuple[tuple[float, Any], ...]:
    return tuple(_term(text.strip()) for text in re.split(r"\+(?![^()]*\))", of))


def _term(text: str) -> tuple[float, Any]:
    match = _TERM.fullmatch(text)
    kinds = {entry.name: entry for entry in index.methods("reward") if entry.family == FAMILY and entry.name != "weighted"}
    if match is None:
        raise ValueError(f"{text!r} is no weight * reward, for example 0.1*format")
    weight, name, fields = match.groups()
    if name not in kinds:
        raise ValueError(f"there is no reward {name!r}{index.closest(name, kinds)}; there are {', '.join(sorted(kinds))}")
    parts = [field.partition("=") for field in (fields or "").split(";") if field.strip()]
    given: dict[str, Any] = {field.strip(): value.strip() for field, _, value in parts}
    try:
        return float(weight or 1), index.load(kinds[name])(**given)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{name}: {'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}") from None
