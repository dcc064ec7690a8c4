"""The inputs of a benchmark: tokenised once by `ours.prepare_*`, then read by every contender, so that all work on the same ids and masks.

A file `inputs.json` in the benchmark's scratch folder: rows, a few held ones to judge the outcome on, and the folder of the model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.flops import Work, segments, shared
from benchmarks.machine import ROOT

SHARED = Path(os.environ.get("TEMPERING_SHARED", ROOT.parent / "shared"))
"""The folder with real data; read in place."""


def write(path: str, **content: Any) -> None:
    """Keep the inputs for the contenders."""
    (Path(path) / "inputs.json").write_text(json.dumps(content))


def read(path: str, seed: int) -> dict[str, Any]:
    """The inputs with "rows" in the order that belongs to a seed: the same for every contender."""
    import random

    content = json.loads((Path(path) / "inputs.json").read_text())
    random.Random(seed).shuffle(content["rows"])
    return content


def by_step(rows: Sequence[Any], per_step: int) -> list[list[Any]]:
    """The rows of each optimizer step; the last one may be short."""
    return [list(rows[i : i + per_step]) for i in range(0, len(rows), per_step)]


def sft_tokens(rows: Sequence[dict[str, Any]]) -> int:
    """Real tokens of demonstrations."""
    return sum(len(row["ids"]) for row in rows)


def sft_scored(rows: Sequence[dict[str, Any]]) -> int:
    """Tokens of demonstrations that carry loss."""
    return sum(sum(row["mask"]) for row in rows)


def pair_tokens(rows: Sequence[dict[str, Any]]) -> int:
    """Tokens of pairs as sequences of their own: the prompt counts twice, whoever shares it."""
    return sum(2 * len(row["prompt"]) + len(row["chosen"]) + len(row["rejected"]) for row in rows)


def pair_scored(rows: Sequence[dict[str, Any]]) -> int:
    """Answer tokens of pairs."""
    return sum(len(row["chosen"]) + len(row["rejected"]) for row in rows)


def sft_work(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """What a pass over demonstrations has to touch."""
    return asdict(segments([len(row["ids"]) for row in rows], sft_scored(rows)))


def pair_work(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """What a pass over pairs has to touch when each prompt is computed once."""
    total = Work()
    for row in rows:
        total += shared(len(row["prompt"]), [len(row["chosen"]), len(row["rejected"])], len(row["chosen"]) + len(row["rejected"]))
    return asdict(total)
