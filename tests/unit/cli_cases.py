"""What tests of the program share: a command line, and what a run leaves."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from tempering.cli import main


def temper(capsys: pytest.CaptureFixture[str], line: str) -> tuple[int, str, str]:
    code = main(shlex.split(line))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def run_folder(path: Path, **files: Any) -> Path:
    path.mkdir(parents=True)
    for name, value in files.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (path / f"{name}.json").write_text(text)
    return path


def write_ledger(path: Path) -> None:
    from tempering.ledger import compare
    from tempering.types import ItemScore, ProbeScores, Scores

    def scores(model: str, right: set[int]) -> Scores:
        items = tuple(ItemScore(f"q{i}", float(i in right), f"Question {i}?", f"said {i}", f"answer {i}") for i in range(4))
        return Scores(model, (ProbeScores("quiz", "accuracy", "binary", True, items, "keep"),))

    compare(scores("base", {0, 1, 2}), scores("[bold]tuned", {2, 3})).write(path / "ledger.json")
