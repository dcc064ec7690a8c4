"""`temper sweep`: every combination, in order, and what stops it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from tempering.errors import GateFailed, Interrupted, UserError
from tests.unit.cli_cases import temper

pytestmark = pytest.mark.usefixtures("empty_folder")


class Runner:
    """Stands for `temper run` in a process of its own: notes the words and writes what a run would."""

    def __init__(self, codes: list[int]) -> None:
        self.codes, self.calls = codes, list[list[str]]()

    def __call__(self, words: Any) -> int:
        self.calls.append(list(words))
        code = self.codes.pop(0) if self.codes else 0
        folder = Path(words[words.index("--out") + 1] if "--out" in words else words[words.index("--resume") + 1])
        folder.mkdir(parents=True, exist_ok=True)
        state = {0: "done", 3: "done", 130: "interrupted"}.get(code, "failed")
        (folder / "status.json").write_text(json.dumps({"state": state}))
        gates = [{"gate": "keep >= 0.9", "passed": code != 3}]
        (folder / "ledger.json").write_text(json.dumps({"keep": {"point": 0.5}, "gates": gates}))
        return code


def sweep(line: str, runner: Runner) -> int:
    from tempering.cli import run
    from tempering.cli import sweep as sweeps
    from tempering.cli.flags import SweepOptions
    from tempering.index import load_recipe

    tokens = shlex.split(line)
    act = lambda signature, given, generic: sweeps.sweep("sft", signature, given, generic, runner)  # noqa: E731
    command = run.command("sft", load_recipe("sft"), act, SweepOptions)
    from cyclopts import App

    app = App(result_action="return_value")
    app.default(command)
    return app(list(run.normalise(tokens, run.Signature(load_recipe("sft")), SweepOptions)), exit_on_error=False, print_error=False)


LINE = "--lr 1e-4,3e-4 --seed 0,1 --data a\\\\,b.jsonl --gate 'keep >= 0.9' --no-keep-best"


def test_a_sweep_runs_every_combination_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    runner = Runner([])
    assert sweep(LINE, runner) == 0
    names = [Path(words[words.index("--out") + 1]).name for words in runner.calls]
    assert names == ["000,lr=1e-4,seed=0", "001,lr=1e-4,seed=1", "002,lr=3e-4,seed=0", "003,lr=3e-4,seed=1"]
    assert runner.calls[1][:2] == ["run", "sft"]
    words = ["--data=a,b.jsonl", "--optimizer.lr=1e-4", "--training.keep-best=false", "--budget.gate=keep >= 0.9", "--seed=1"]
    assert set(words) <= set(runner.calls[1])
    out = capsys.readouterr().out
    assert out.count("0.500") == 4


def test_a_sweep_goes_on_where_it_was() -> None:
    first = Runner([0, 130])
    with pytest.raises(Interrupted, match="type the same command again"):
        sweep(LINE, first)
    second = Runner([])
    assert sweep(LINE, second) == 0
    assert len(second.calls) == 3, "the finished run is not run twice"
    assert "--resume" in second.calls[0]
    assert "--out" not in second.calls[0]
    assert sweep(LINE, third := Runner([])) == 0
    assert third.calls == []


def test_a_failed_gate_does_not_stop_a_sweep_but_wrong_input_does() -> None:
    gates = Runner([3])
    with pytest.raises(GateFailed, match="1 of 4 runs failed a gate"):
        sweep(LINE, gates)
    assert len(gates.calls) == 4
    with pytest.raises(GateFailed):
        sweep(LINE, again := Runner([]))
    assert again.calls == [], "a run that failed its gate has finished"
    wrong = Runner([0, 2])
    with pytest.raises(UserError, match="run 2 of 4"):
        sweep(LINE + " --limit 5", wrong)
    assert len(wrong.calls) == 2


def test_a_sweep_s_dry_run_prints_commands(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = temper(capsys, "sweep sft --lr 1,2 --dry-run")
    assert code == 0
    for line, lr in zip(out.splitlines(), ("1", "2"), strict=True):
        words = shlex.split(line)
        assert words[:4] == ["temper", "run", "sft", f"--optimizer.lr={lr}"]
        assert temper(capsys, shlex.join([*words[1:], "--dry-run"]))[0] == 0
