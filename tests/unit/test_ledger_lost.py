"""Lost items as data: rows our own reader takes back, and a word for each that is left out."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest

from tempering.ledger import compare
from tempering.lost import lost_records, write_lost

from .ledger_cases import both, continuous, counted


def test_rows() -> None:
    ledger = compare(*both(counted("task", 3, 1, 2, 2, side="target"), counted("qa", 5, 2, 0, 1)))
    rows = list(lost_records(ledger))
    assert rows == [
        {"prompt": "question 3 of task?", "completion": "answer 3", "id": "task3", "probe": "task"},
        {"prompt": "question 5 of qa?", "completion": "answer 5", "id": "qa5", "probe": "qa"},
        {"prompt": "question 6 of qa?", "completion": "answer 6", "id": "qa6", "probe": "qa"},
    ]
    assert list(lost_records(ledger, side="keep")) == rows[1:]
    file = io.StringIO()
    assert write_lost(ledger, file) == 3
    assert [json.loads(line) for line in file.getvalue().splitlines()] == rows


def test_what_is_left_out_is_said() -> None:
    before, after = both(counted("qa", 1, 3, 0, 0), continuous("text", [1.0, 2.0, 3.0], [9.0, 9.0, 9.0]))
    qa = before.probes[0]
    items = (qa.items[0], dataclasses.replace(qa.items[1], prompt="p" * 30_000), dataclasses.replace(qa.items[2], prompt=""), qa.items[3])
    said: list[str] = []
    ledger = compare(dataclasses.replace(before, probes=(dataclasses.replace(qa, items=items), before.probes[1])), after)
    assert [row["id"] for row in lost_records(ledger, say=said.append)] == ["qa3"]
    assert said == [
        "qa: 1 lost item left out, their texts were too long to keep.",
        "qa: 1 lost item left out, they have no prompt or answer.",
        "text: 3 lost items left out, they have no right answer to train on (nll per token).",
    ]


def test_our_reader_takes_them_back(tmp_path: Path) -> None:
    data = pytest.importorskip("tempering.data")
    ledger = compare(*both(counted("qa", 5, 2, 0, 1)))
    path = tmp_path / "replay.jsonl"
    with path.open("w", encoding="utf-8") as file:
        write_lost(ledger, file)
    records = list(data.read(str(path), say=lambda text: None))
    assert [(r.prompt[-1].content, r.responses[0].messages[-1].content) for r in records] == [
        ("question 5 of qa?", "answer 5"),
        ("question 6 of qa?", "answer 6"),
    ]
