"""Runs of the recipes on made records: what lands in the folder, what is not asked twice, and phases within one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tempering.config import Budget, Training
from tempering.errors import UserError
from tempering.execution import Report
from tempering.experiment import Options, execute
from tempering.index import load_recipe
from tempering.methods.scopes.full import Full
from tempering.methods.scopes.lora import LoRA

SMALL: dict[str, Any] = {
    "model": "builtin:tiny", "max_new_tokens": 4, "training": Training(steps=3, batch_size=4), "budget": Budget(keep="none", max_test=4),
}  # fmt: skip


@pytest.fixture
def people(tmp_path: Path) -> str:
    rows = [{"prompt": f"Where is house {i}?", "completion": ["Oslo", "Lima", "Cairo"][i % 3]} for i in range(12)]
    return _write(tmp_path / "rows.jsonl", rows)


def _write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(name: str, out: Path, **values: Any) -> Report:
    return execute(load_recipe(name), {**SMALL, **values}, Options(out=out))


def test_r_tuning_runs_by_its_name(people: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    report = run("r_tuning", out, data=people, scope=LoRA(r=2))
    made = [json.loads(line) for line in (out / "made" / "records.jsonl").read_text().splitlines()]
    assert len(made) == 11 and all(len(row["responses"][0]["messages"]) == 3 for row in made)
    assert json.loads((out / "made" / "lost.json").read_text()) == {"dropped": {}, "lost": {}}
    assert report.folder == out and (out / "model").is_dir()


def test_pairs_of_ratings_with_a_cached_reference(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Say {i}", "completions": [{"response": f"{word} {i}", "ratings": {"help": n}} for word, n in (("yes", 5), ("no", i % 5 + 1))]}
        for i in range(12)
    ]
    out = tmp_path / "run"
    run("ultrafeedback", out, data=_write(tmp_path / "rated.jsonl", rows), scope=Full())
    lost = json.loads((out / "made" / "lost.json").read_text())
    held = json.loads((out / "made-held" / "lost.json").read_text())
    assert lost["dropped"].get("every answer has the same score", 0) + held["dropped"].get("every answer has the same score", 0) == 2


def test_what_cannot_be_made_is_one_sentence(people: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ultrafeedback made nothing of 11 records; 11 left out"):
        run("ultrafeedback", tmp_path / "run", data=people)


def test_phases_are_trained_within_one_run(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}?", "completion": "yes", "domain": "math" if i % 2 else "general"} for i in range(16)]
    out = tmp_path / "run"
    run("dmt", out, data=_write(tmp_path / "rows.jsonl", rows), scope=LoRA(r=2), training=Training(batch_size=4))
    made = [json.loads(line) for line in (out / "made" / "records.jsonl").read_text().splitlines()]
    assert len(made) == 15 and {row["tags"]["phase"] for row in made} == {0, 1}
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in steps) in (3, 4)
