"""Data: from what people have to tokens with an exact loss mask.

`read` turns a file, folder or hub id into `Record`s; `sft_row`, `pair_row`, `unpaired_row` and `text_row` render records with the model's own chat
template into rows of `Segment`s; `Table` keeps rows on disk; `check` finds, before any training, what people lose days to.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "readers": ("RecordSource", "read"),
    "place": ("DataError",),
    "shapes": ("NAMES", "SHAPES"),
    "rendering": ("prompt_ids", "render", "with_template"),
    "rows": ("RowReport", "best_response", "pair_row", "pairs", "ranked_row", "sft_row", "text_row", "text_rows", "unpaired_row"),
    "feedback": (
        "Again",
        "Mismatched",
        "Numbered",
        "changed_row",
        "class_of",
        "classed_row",
        "corrected_row",
        "duel_row",
        "labelled_row",
        "listed_row",
        "options_row",
        "quality_row",
        "rewarded_row",
        "scored_pair_row",
        "stepped_row",
    ),
    "forgetting": ("forget_row", "retain_row"),
    "table": ("Table",),
    "checking": ("check",),
    "findings": ("CheckReport", "Finding"),
    "show": ("render_example",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = [
    "NAMES",
    "SHAPES",
    "Again",
    "CheckReport",
    "DataError",
    "Finding",
    "Mismatched",
    "Numbered",
    "RecordSource",
    "RowReport",
    "Table",
    "best_response",
    "changed_row",
    "check",
    "class_of",
    "classed_row",
    "corrected_row",
    "duel_row",
    "forget_row",
    "labelled_row",
    "listed_row",
    "options_row",
    "pair_row",
    "pairs",
    "prompt_ids",
    "quality_row",
    "ranked_row",
    "read",
    "render",
    "render_example",
    "retain_row",
    "rewarded_row",
    "scored_pair_row",
    "sft_row",
    "stepped_row",
    "text_row",
    "text_rows",
    "unpaired_row",
    "with_template",
]

if TYPE_CHECKING:
    from tempering.data.checking import check
    from tempering.data.feedback import (
        Again,
        Mismatched,
        Numbered,
        changed_row,
        class_of,
        classed_row,
        corrected_row,
        duel_row,
        labelled_row,
        listed_row,
        options_row,
        quality_row,
        rewarded_row,
        scored_pair_row,
        stepped_row,
    )
    from tempering.data.findings import CheckReport, Finding
    from tempering.data.forgetting import forget_row, retain_row
    from tempering.data.place import DataError
    from tempering.data.readers import RecordSource, read
    from tempering.data.rendering import prompt_ids, render, with_template
    from tempering.data.rows import RowReport, best_response, pair_row, pairs, ranked_row, sft_row, text_row, text_rows, unpaired_row
    from tempering.data.shapes import NAMES, SHAPES
    from tempering.data.show import render_example
    from tempering.data.table import Table


def __getattr__(name: str) -> Any:
    # no module here is called like a public function: importing it would set the module over the function
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
