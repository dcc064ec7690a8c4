"""Logging to trackers: what TensorBoard reads back is metrics.jsonl, a resumed run goes on in the same place, and no tracker can harm a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tempering import logs
from tempering.cli.run import Generic, watched
from tempering.cli.sweep import _words
from tempering.cli.values import Signature
from tempering.config import Budget, Optimizer, Training
from tempering.errors import Interrupted, UserError
from tempering.experiment import execute
from tempering.ledger import Ledger, compare
from tempering.ledger_types import GateResult
from tempering.logs import Logs, chosen
from tempering.logs.summary import in_words, numbers, text
from tempering.options import Options
from tempering.recipes.sft import sft
from tests.unit.ledger_cases import both, continuous, counted


def read_back(folder: Path) -> dict[int, dict[str, float]]:
    """step -> name -> number, by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    found: dict[int, dict[str, float]] = {}
    for name in events.Tags()["tensors"]:
        if name.endswith("/text_summary"):
            continue
        for event in events.Tensors(name):
            assert name not in found.setdefault(event.step, {}), f"{name} at step {event.step} twice"
            found[event.step][name] = tensor_util.make_ndarray(event.tensor_proto).item()
    return found


def written(path: Path) -> dict[int, dict[str, float]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["step"]: {name: value for name, value in line.items() if name != "step" and value is not None} for line in lines}


def run_folder(path: Path) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"recipe": "sft", "values": {"optimizer": {"lr": 0.1}, "model": "builtin:tiny"}}))
    return path


@pytest.fixture
def given(tiny_folder: Path, tmp_path: Path) -> dict[str, Any]:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"Where is house {i}?", "completion": ("Oslo", "Lima")[i % 2]}) + "\n" for i in range(16)))
    training = Training(epochs=2, batch_size=4, precision="fp32", save_every=3, eval_every=3)
    return {"model": str(tiny_folder), "data": str(data), "training": training, "optimizer": Optimizer(lr=3e-3), "budget": Budget(keep="none")}


class Watching:
    """A tracker in memory; `fails` names the call that raises."""

    package: ClassVar[str] = "json"
    install: ClassVar[str] = "watching"
    mend: ClassVar[str] = "watch less"
    fails: ClassVar[str] = ""
    seen: ClassVar[list[tuple[str, Any]]] = []

    def _note(self, call: str, value: Any) -> None:
        self.seen.append((call, value))
        if self.fails == call:
            raise ConnectionError("the service is gone\nand more lines")

    def open(self, folder: Path, config: Mapping[str, Any], kept: Mapping[str, Any]) -> Mapping[str, Any]:
        self._note("open", dict(kept))
        return {"id": "abc"}

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._note("metrics", step)

    def ledger(self, step: int, values: Mapping[str, float], text: str) -> None:
        self._note("ledger", step)

    def close(self, state: str) -> None:
        self._note("close", state)


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> type[Watching]:
    class Fresh(Watching):
        seen: ClassVar[list[tuple[str, Any]]] = []

    monkeypatch.setattr(logs, "TRACKERS", {**logs.TRACKERS, "watching": Fresh})
    return Fresh


# ---------------------------------------------------------------------------------------------------------------------------------------- choosing


def test_names_come_by_commas_and_by_repetition_each_once(watching: type[Watching]) -> None:
    assert chosen(["watching,tensorboard", "watching", " tensorboard "]) == ("watching", "tensorboard")
    assert chosen("tensorboard") == ("tensorboard",)
    assert chosen(()) == ()


def test_an_unknown_tracker_is_named_with_the_closest() -> None:
    with pytest.raises(UserError, match=r"--log tensorbord: expected one of tensorboard, trackio, wandb, mlflow; did you mean 'tensorboard'\?"):
        chosen("tensorbord")


def test_a_missing_package_is_a_sentence_with_the_pip_line_before_anything_is_made(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tempering.cli import main

    monkeypatch.setattr(logs, "find_spec", lambda name: None)
    out = tmp_path / "run"
    assert main(["run", "sft", "--model", given["model"], "--data", given["data"], "--out", str(out), "--log", "tensorboard,wandb"]) == 2
    assert "--log tensorboard: the package tensorboard is not installed; install it with: pip install tensorboard" in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_of_that_name_is_not_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notapackage").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(logs.WandB, "package", "notapackage")
    with pytest.raises(UserError, match="is not installed; install it with: pip install wandb"):
        chosen("wandb")


def test_a_config_file_may_name_trackers_and_flags_win(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("lr: 1e-3\nlog: [tensorboard, wandb]\nprofile: '4:2'\n")
    signature = Signature(sft)
    generic = watched(signature, Generic(config=str(path)))
    assert (generic.log, generic.profile) == (["tensorboard", "wandb"], "4:2")
    assert watched(signature, Generic(config=str(path), log=["mlflow"])).log == ["mlflow"]
    path.write_text("lr: 1e-3\nlog: tensorboard,wandb\n")
    assert watched(signature, Generic(config=str(path))).log == ["tensorboard,wandb"]
    path.write_text("lr: 1e-3\nlog: 3\n")
    with pytest.raises(UserError, match=r"my.yaml line 2: log: expected a tracker's name, or a list of them, got 3"):
        watched(signature, Generic(config=str(path)))


def test_a_sweep_hands_trackers_on() -> None:
    assert list(_words(Signature(sft), [], Generic(log=["tensorboard", "wandb,mlflow"]))) == ["--log", "tensorboard", "--log", "wandb,mlflow"]


# ------------------------------------------------------------------------------------------------------------------------------------- TensorBoard


def test_tensorboard_holds_metrics_jsonl_and_the_ledger_exactly(given: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    report = execute(sft, given, Options(out=out, log=("tensorboard",)))
    events, lines = read_back(out / "tensorboard"), written(out / "metrics.jsonl")
    assert list(lines) == list(range(1, 9)) and {"loss", "lr", "grad_norm", "tokens_per_s"} <= set(lines[1]) and "eval.loss" in lines[3]
    summary = numbers(report.ledger)
    assert summary["probe/held_loss/delta"] == report.ledger.probe("held_loss").difference.point
    assert events == {**lines, 8: {**lines[8], **summary}}


def test_a_stopped_run_goes_on_in_the_same_files(given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tempering import fit

    class AfterFour:
        asked = 0

        @property
        def reason(self) -> str:
            AfterFour.asked += 1
            return "SIGTERM" if AfterFour.asked > 4 else ""

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(fit, "Stopper", AfterFour)
        with pytest.raises(Interrupted):
            execute(sft, given, Options(out=out, log=("tensorboard",)))
    assert read_back(out / "tensorboard") == written(out / "metrics.jsonl")
    # What a killed process logged after its last checkpoint: other values for steps that come again.
    killed = Logs((), out, resumed=True, say=print)
    assert killed.names == ("tensorboard",)
    killed.open()
    killed.metrics({"step": 5, "loss": 99.0, "only.then": 1.0})
    killed.metrics({"step": 6, "loss": 98.0})
    killed.close("failed")
    report = execute(sft, given, Options(resume=out))
    lines = written(out / "metrics.jsonl")
    assert list(lines) == list(range(1, 9))
    assert read_back(out / "tensorboard") == {**lines, 8: {**lines[8], **numbers(report.ledger)}}


def test_the_ledger_of_a_run_that_was_trained_before_stands_at_its_last_step(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 12, "loss": 1.0}\n')
    opened = Logs(("tensorboard",), folder, resumed=True, say=print)
    opened.open()
    opened.ledger(compare(*both(counted("facts", 6, 2, 1, 1))))
    opened.close("done")
    assert list(read_back(folder / "tensorboard")) == [12]


# ------------------------------------------------------------------------------------------------------------------------------- keeping runs safe


def test_without_the_flag_no_tracker_is_made(given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> None:
        raise AssertionError("a tracker was made though none was asked for")

    monkeypatch.setattr(logs, "TRACKERS", dict.fromkeys(logs.TRACKERS, never))
    out = tmp_path / "run"
    execute(sft, given, Options(out=out))
    assert not (out / "trackers.json").exists()


def test_only_the_first_of_several_processes_logs(tmp_path: Path, watching: type[Watching], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    opened = Logs(("watching",), run_folder(tmp_path / "run"), resumed=False, say=print)
    opened.open()
    opened.metrics({"step": 1, "loss": 1.0})
    assert watching.seen == [] and not (tmp_path / "run" / "trackers.json").exists()


@pytest.mark.parametrize("call", ["metrics", "ledger", "close"])
def test_a_tracker_that_fails_is_named_once_and_the_run_ends_as_without_it(
    call: str, given: dict[str, Any], tmp_path: Path, watching: type[Watching], capsys: pytest.CaptureFixture[str]
) -> None:
    watching.fails = call
    out = tmp_path / "run"
    execute(sft, given, Options(out=out, log=("watching", "tensorboard")))
    said = capsys.readouterr().err
    assert said.count("--log watching failed and is left out from here on (ConnectionError: the service is gone); the run goes on") == 1
    assert [name for name, _ in watching.seen].count(call) == 1
    assert list(written(out / "metrics.jsonl")) == list(range(1, 9))
    assert "probe/held_loss/after" in read_back(out / "tensorboard")[8]
    assert json.loads((out / "status.json").read_text())["state"] == "done" and Ledger.read(out / "ledger.json").probes


def test_a_tracker_that_cannot_be_opened_ends_the_run_before_it_measures(given: dict[str, Any], tmp_path: Path, watching: type[Watching]) -> None:
    watching.fails = "open"
    out = tmp_path / "run"
    wanted = r"--log watching: cannot be opened \(ConnectionError: the service is gone\); watch less, or leave --log watching out"
    with pytest.raises(UserError, match=wanted):
        execute(sft, given, Options(out=out, log=("tensorboard", "watching")))
    assert not out.exists()


def test_how_a_run_ended_reaches_the_tracker_and_its_id_comes_back(tmp_path: Path, watching: type[Watching]) -> None:
    folder = run_folder(tmp_path / "run")
    first = Logs(("watching",), folder, resumed=False, say=print)
    first.open()
    first.open()
    first.metrics({"step": 1, "loss": 1.0})
    first.close("interrupted")
    first.close("failed")
    again = Logs((), folder, resumed=True, say=print)
    again.open()
    assert watching.seen == [("open", {}), ("metrics", 1), ("close", "interrupted"), ("open", {"id": "abc"})]


def test_what_a_signal_raises_inside_a_tracker_is_not_swallowed(tmp_path: Path, watching: type[Watching], monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(self: Watching, step: int, values: Mapping[str, float]) -> None:
        raise Interrupted("stopped by Ctrl-C")

    monkeypatch.setattr(watching, "metrics", stopped)
    opened = Logs(("watching",), run_folder(tmp_path / "run"), resumed=False, say=print)
    opened.open()
    with pytest.raises(Interrupted):
        opened.metrics({"step": 1, "loss": 1.0})


# ---------------------------------------------------------------------------------------------------------------------------------------- the ledger


def test_the_ledger_as_numbers() -> None:
    ledger = compare(*both(counted("facts", 6, 2, 1, 1, side="target"), continuous("loss", [1.0, 2.0, 3.0], [0.5, 1.0, 2.5])), cost={"tokens": 9.0})
    gate = GateResult("keep >= 0.98", False, 0.75, None, None, 0.98, "share")
    found = numbers(Ledger(**{**vars(ledger), "gates": (gate,)}))
    assert (found["probe/facts/before"], found["probe/facts/after"]) == (0.8, 0.7)
    assert found["probe/facts/delta"] == pytest.approx(-0.1, abs=1e-12)
    assert found["probe/loss/delta"] == pytest.approx(-2 / 3, abs=1e-12)
    assert found["gate/keep at least 0.98"] == 0.0 and found["cost/tokens"] == 9.0
    assert "ledger/keep" not in found or 0 <= found["ledger/keep"] <= 1
    page = text(Ledger(**{**vars(ledger), "gates": (gate,)}))
    assert "| facts (target) | 10 | 80% | 70% |" in page and "FAILED" in page


@pytest.mark.parametrize(
    ("gate", "words"), [("keep >= 0.98", "keep at least 0.98"), ("kl<0.1", "kl below 0.1"), ("facts.diff > -0.02", "facts.diff above -0.02")]
)
def test_gates_in_words(gate: str, words: str) -> None:
    assert in_words(gate) == words
