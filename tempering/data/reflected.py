"""A rationale with a wrong answer to its question and another right one beside it, as a row of three parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tempering.data.rows import RowReport, sft_row
from tempering.types import Record, Row


def reflected_row(record: Record, tokenizer: Any, *, max_length: int | None = None, report: RowReport | None = None) -> Row | None:
    """{"chosen": the first response, "negative": the second, "positive": the third}; where there is no third, the first again without weight. None
    where one of them is too long, which `report` counts."""
    segments = []
    for response in record.responses[:3]:
        row = sft_row(replace(record, responses=(response,), better=()), tokenizer, max_length=max_length, report=report)
        if row is None:
            return None
        segments.append(row["train"][0])
    chosen, negative, *rest = segments
    positive = rest[0] if rest else replace(chosen, weight=np.zeros_like(chosen.weight))
    return {"chosen": (chosen,), "negative": (negative,), "positive": (positive,)}
