"""Rows for distillation whose teacher reads something else than the student: a rule in front, or tokens of its own.

The student's tokens and the teacher's are brought together by their number in the answer. Where one side has more of them, what is left over has no
weight; for a rule in front of the same answer nothing is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np

from tempering.data.rows import RowReport, sft_row
from tempering.types import Message, Record, Row, Segment


def told_row(record: Record, tokenizer: Any, *, rule: str, report: RowReport | None = None, **how: Any) -> Row | None:
    """{"train": segments, "told": the same answers behind `rule`}, or None if either was dropped (counted in `report`).

    The rule is a system turn of its own, or stands before the one that is there. `how` are arguments of `sft_row`.
    """
    system = record.prompt[0] if record.prompt and record.prompt[0].role == "system" else None
    turn = Message("system", rule if system is None else f"{rule}\n\n{system.content}")
    prompt = (turn, *(record.prompt if system is None else record.prompt[1:]))
    row, told = _both(record, lambda report: sft_row(replace(record, prompt=prompt), tokenizer, report=report, **how), tokenizer, report, how)
    return None if row is None else {"train": tuple(a for a, _ in told), "told": tuple(b for _, b in told)}


class Taught:
    """{"train": segments, "seen": the same, "taught": the same answers in the tokens of the teacher}; "seen" and "taught" have as many scored tokens.

    Args:
        tokenizer: the teacher's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.__name__ = f"taught-{_digest((tokenizer,))}"

    def __call__(self, record: Record, tokenizer: Any, *, report: RowReport | None = None, **how: Any) -> Row | None:
        row, both = _both(record, lambda report: sft_row(record, self.tokenizer, report=report, **how), tokenizer, report, how)
        return None if row is None else {**row, "seen": tuple(a for a, _ in both), "taught": tuple(b for _, b in both)}


class Read:
    """{"train": segments, "read0": the same answers in the tokens of the first of other models, "read1": ...}.

    Args:
        tokenizers: theirs.
    """

    def __init__(self, tokenizers: Sequence[Any]) -> None:
        self.tokenizers = tuple(tokenizers)
        self.__name__ = f"read-{_digest(self.tokenizers)}"

    def __call__(self, record: Record, tokenizer: Any, *, report: RowReport | None = None, **how: Any) -> Row | None:
        report = RowReport() if report is None else report
        others = [sft_row(record, other, report=RowReport(), **how) for other in self.tokenizers]
        if None in others:
            report.records += 1
            report.note(report.dropped, "too long for one of the models", record.source)
            return None
        row = sft_row(record, tokenizer, report=report, **how)
        return row and {**row, **{f"read{i}": other["train"] for i, other in enumerate(others) if other}}


def _digest(tokenizers: Sequence[Any]) -> str:
    """Rows are kept by the name of what made them, so it says of which tokens and templates they are."""
    told = [(tokenizer.backend_tokenizer.to_str(), getattr(tokenizer, "chat_template", None)) for tokenizer in tokenizers]
    return sha256(repr(told).encode()).hexdigest()[:16]


def _both(
    record: Record, teach: Callable[[RowReport], Row | None], tokenizer: Any, report: RowReport | None, how: dict[str, Any]
) -> tuple[Row | None, list[tuple[Segment, Segment]]]:
    """The student's row, and its segments beside the teacher's."""
    report = RowReport() if report is None else report
    other = teach(RowReport())
    if other is None:
        report.records += 1
        report.note(report.dropped, "too long for the teacher", record.source)
        return None, []
    row = sft_row(record, tokenizer, report=report, **how)
    return row, [] if row is None else [_aligned(a, b) for a, b in zip(row["train"], other["train"], strict=False)]


def _aligned(mine: Segment, other: Segment) -> tuple[Segment, Segment]:
    places = [np.flatnonzero(s.weight) for s in (mine, other)]
    n = min(map(len, places))
    weights = mine.weight[places[0][:n]]
    return _weighted(mine, places[0][:n], weights), _weighted(other, places[1][:n], weights)


def _weighted(s: Segment, places: np.ndarray, weights: np.ndarray) -> Segment:
    whole = np.zeros_like(s.weight)
    whole[places] = weights
    return replace(s, weight=whole)
