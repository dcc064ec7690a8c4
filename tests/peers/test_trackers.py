"""Trackio, W&B and MLflow with their own libraries and local stores: what they hold afterwards is what the run logged, also after a resume."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tempering.ledger import compare
from tempering.logs import Logs
from tempering.logs.summary import numbers
from tests.unit.ledger_cases import both, counted

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore"),  # What these libraries say about their own dependencies is not ours.
]
LEDGER = compare(*both(counted("facts", 6, 2, 1, 1)))
LINES = [{"step": step, "loss": 1 / step, "lr": 1e-3 / 3} for step in range(1, 6)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "run-a"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"recipe": "sft", "values": {"optimizer": {"lr": 0.1}, "model": "builtin:tiny"}}))
    monkeypatch.chdir(tmp_path)
    return path


def log_twice(name: str, folder: Path) -> dict[str, Any]:
    """A run stopped after three steps and resumed for two more and a ledger; what it keeps in its folder."""
    said: list[str] = []
    first = Logs((name,), folder, resumed=False, say=said.append)
    first.open()
    for line in LINES[:3]:
        first.metrics(line)
    first.close("interrupted")
    kept = json.loads((folder / "trackers.json").read_text())[name]
    again = Logs((), folder, resumed=True, say=said.append)
    again.open()
    for line in LINES[3:]:
        again.metrics(line)
    again.ledger(LEDGER)
    again.close("done")
    assert said == []
    assert json.loads((folder / "trackers.json").read_text())[name] == kept
    return kept


def test_mlflow_in_a_local_database(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'ml.db'}")
    kept = log_twice("mlflow", folder)
    client = mlflow.MlflowClient()
    run = client.get_run(kept["id"])
    assert (run.info.status, run.info.run_name, run.data.params["values.optimizer.lr"]) == ("FINISHED", "run-a", "0.1")
    assert [(m.step, m.value) for m in client.get_metric_history(kept["id"], "loss")] == [(line["step"], line["loss"]) for line in LINES]
    assert {name: run.data.metrics[name] for name in numbers(LEDGER)} == numbers(LEDGER)
    assert "| facts (keep) |" in mlflow.artifacts.load_text(f"{run.info.artifact_uri}/ledger.md")
    assert len(client.search_runs([run.info.experiment_id])) == 1


def test_mlflow_that_does_not_answer_is_left_out_by_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'ml.db'}")
    said: list[str] = []
    logs = Logs(("mlflow",), folder, resumed=False, say=said.append)
    logs.open()
    logs.metrics(LINES[0])
    tracker: Any = logs._open["mlflow"]
    tracker._id = "no-such-run"
    for line in LINES[1:]:
        logs.metrics(line)
    logs.close("done")
    assert len(said) == 1 and said[0].startswith("--log mlflow failed and is left out from here on (MlflowException: ")


@pytest.fixture
def trackio_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # The library reads its folder once, when it is imported.
    home = tmp_path / "trackio"
    monkeypatch.setenv("TRACKIO_DIR", str(home))
    trackio = pytest.importorskip("trackio")
    from trackio import sqlite_storage

    for module in (trackio, sqlite_storage):
        monkeypatch.setattr(module, "TRACKIO_DIR", home)
    yield home


def test_trackio_in_a_local_database(folder: Path, trackio_home: Path) -> None:
    kept = log_twice("trackio", folder)
    assert kept == {"project": "tempering", "name": "run-a"}
    from trackio.sqlite_storage import SQLiteStorage

    assert trackio_home.is_dir()
    rows = SQLiteStorage.get_logs("tempering", "run-a")
    assert [(row["step"], row["loss"], row["lr"]) for row in rows if "loss" in row] == [(line["step"], line["loss"], line["lr"]) for line in LINES]
    (last,) = [row for row in rows if "ledger" in row]
    assert {name: last[name] for name in numbers(LEDGER)} == numbers(LEDGER) and last["step"] == 5
    assert len(SQLiteStorage.get_runs("tempering")) == 1


def test_wandb_offline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    kept = log_twice("wandb", folder)
    wandb.teardown()  # Its own process writes the file, a little after a run is finished.
    parts = sorted((folder / "wandb").glob("offline-run-*"))
    assert parts and all(part.name.endswith(kept["id"]) for part in parts)
    records = [record for part in parts for record in history(next(part.glob("*.wandb")))]
    assert [(r["_step"], r["loss"], r["lr"]) for r in records if "loss" in r] == [(line["step"], line["loss"], line["lr"]) for line in LINES]
    files = {path.name for part in parts for path in part.rglob("*") if path.is_file()}
    assert not files & {"requirements.txt", "diff.patch", "output.log", "conda-environment.yaml"}


def history(path: Path) -> Iterator[dict[str, Any]]:
    """The logged rows in a W&B file: after 7 bytes of header, LevelDB's log format (checksum 4, length 2, kind 1; blocks of 32 KiB)."""
    from wandb.proto import wandb_internal_pb2

    raw, at, held = path.read_bytes(), 7, b""
    while at + 7 <= len(raw):
        if 32768 - at % 32768 < 7:  # too little for a header: padding
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(raw[at + 4 : at + 6], "little"), raw[at + 6]
        held += raw[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole record, or its last piece
            record = wandb_internal_pb2.Record()
            record.ParseFromString(held)
            held = b""
            if record.WhichOneof("record_type") == "history":
                yield {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
