"""Slices of public data for the keep battery, read in place where a folder with them is given; never required, nothing is copied.

ARC-Easy (Clark et al. 2018), XSTest (Röttger et al. 2024) and WikiText-2 (Merity et al. 2016), each if its file is there.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.errors import UserError

if TYPE_CHECKING:
    from tempering.types import Probe


def slices(folder: Path, count: int) -> tuple[Probe, ...]:
    """Probes over the slices found under `folder` (or `folder`/data), `count` items each.

    Raises:
        UserError: the folder is not there.
    """
    from tempering.methods.probes.multiple_choice import ChoiceItem, MultipleChoice
    from tempering.methods.probes.perplexity import Perplexity, TextItem
    from tempering.methods.probes.refusals import Refusals, RequestItem

    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder of real data (environment variable TEMPERING_SHARED), correct it or unset it")
    data = folder / "data" if (folder / "data").is_dir() else folder
    found: list[Probe] = []
    if (arc := data / "arc" / "easy_test.jsonl").is_file():
        items = tuple(ChoiceItem(**_arc(row)) for row in _lines(arc))
        found.append(MultipleChoice(name="arc_easy", items=items, normalise="sum", chat=False, limit=count))
    if (xstest := data / "xstest" / "xstest_prompts.jsonl").is_file():
        requests = tuple(
            RequestItem(id=f"xstest-{row['id']}", prompt=row["prompt"], should="comply" if row["label"] == "safe" else "refuse")
            for row in _lines(xstest)
        )
        found.append(Refusals(name="xstest", items=requests, max_new_tokens=20, batch_size=32, limit=count))
    if (wikitext := data / "wikitext2" / "valid.txt.gz").is_file():
        with gzip.open(wikitext, "rt", encoding="utf-8") as file:
            paragraphs = [line.strip() for line in file if len(line.split()) >= 40]
        texts = tuple(TextItem(id=f"wikitext-{i}", text=text) for i, text in enumerate(paragraphs))
        found.append(Perplexity(name="wikitext2", items=texts, max_tokens=128, limit=count // 2))
    return tuple(found)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file if line.strip())


def _arc(row: dict[str, Any]) -> dict[str, Any]:
    choices = row["question"]["choices"]
    answer = [choice["label"] for choice in choices].index(row["answerKey"])
    return {"id": f"arc-{row['id']}", "question": row["question"]["stem"], "choices": [choice["text"] for choice in choices], "answer": answer}
