"""--profile: the trace is the steps that were asked for with their named ranges, and the table accounts for all of the time."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from tempering.config import Optimizer, Training
from tempering.data.streams import Shuffled
from tempering.display import Display
from tempering.errors import UserError
from tempering.fit import fit
from tempering.logs import Logs
from tempering.methods.objectives.nll import NLL
from tempering.methods.scopes.full import Full
from tempering.profiling import KINDS, PHASES, Window
from tempering.types import Role
from tempering.watch import watching
from tests.toy import toy_llama, toy_rows


def train(folder: Path, window: Window | None, steps: int = 6) -> None:
    logs = Logs((), folder, resumed=False, say=print)
    with watching(Display(), logs, steps, window, folder) as on_metrics:
        fit({"policy": Role(toy_llama(), Full())}, NLL(), Shuffled(toy_rows(8), 4), steps=steps, optimizer=Optimizer(lr=1e-3),
            training=Training(precision="fp32", micro_tokens=30), say=print, on_metrics=on_metrics)  # fmt: skip


def test_the_trace_holds_the_steps_and_their_ranges(tmp_path: Path) -> None:
    train(tmp_path, Window(2, 3))
    trace = json.loads(gzip.decompress((tmp_path / "profile.json.gz").read_bytes()))
    names = [event.get("name", "") for event in trace["traceEvents"] if event.get("ph") == "X"]
    # Recording ends before the next step begins; a step's number is its place in the run.
    assert sorted(name for name in set(names) if name.startswith("ProfilerStep#")) == ["ProfilerStep#2", "ProfilerStep#3", "ProfilerStep#4"]
    ranges = [event["name"] for event in trace["traceEvents"] if event.get("ph") == "X" and event.get("cat") == "user_annotation"]
    assert (ranges.count("data"), ranges.count("forward+backward")) == (3, 3)
    assert sum(name.startswith("Optimizer.step#AdamW") for name in ranges) == 3


def test_the_table_adds_up(tmp_path: Path) -> None:
    train(tmp_path, Window(1, 2))
    text = (tmp_path / "profile.txt").read_text()
    assert text.startswith("2 steps, ")
    phases, kinds, operators = (part.splitlines()[1:] for part in text.split("\n\n")[1:])
    phase, kind = ({re.split(r"  +", line.strip())[0]: float(line.rstrip()[:-1].split()[-1]) for line in lines} for lines in (phases, kinds))
    assert phase.keys() == {*PHASES, "rest"} and sum(phase.values()) == pytest.approx(100, abs=0.3)
    assert kind.keys() == set(KINDS) and sum(kind.values()) == pytest.approx(100, abs=0.4)
    assert all(phase[name] > 0 for name in PHASES) and all(kind[name] > 0 for name in ("matmul", "attention", "head", "optimizer"))
    assert any("aten::mm" in line for line in operators)


def test_a_window_after_the_end_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, Window(7, 2), steps=3)
    assert "nothing was profiled: the run ended before step 8" in capsys.readouterr().err
    assert not (tmp_path / "profile.json.gz").exists()


def test_without_a_window_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("a profiler was made though none was asked for")

    monkeypatch.setattr("torch.profiler.profile", never)
    train(tmp_path, None, steps=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "3", "0:3", "3:0", "a:b", "3:4:5", "-1:2", "3:99999"])
def test_a_malformed_window_is_a_sentence(text: str) -> None:
    with pytest.raises(UserError, match=r"expected START:STEPS, both at least 1, for example 3:3"):
        Window.parse(text)
