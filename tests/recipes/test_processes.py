"""`temper run RECIPE --processes N` and torchrun: one run, one voice, one folder; the numbers of a single process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SFT = ["run", "sft", "--model", "builtin:tiny", "--data", "builtin:demo", "--limit", "40", "--batch-size", "5", "--micro-tokens", "200"]
SFT += ["--keep", "none", "--max-test", "5", "--precision", "fp32", "--again"]

pytestmark = pytest.mark.slow


def start(folder: Path, *words: str, program: tuple[str, ...] = ("-m", "tempering")) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, *program, *words], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def temper(folder: Path, *words: str, program: tuple[str, ...] = ("-m", "tempering")) -> tuple[int, str, str]:
    process = start(folder, *words, program=program)
    out, err = process.communicate()
    return process.returncode, out, err


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def nll(run: Path) -> list[float]:
    """Of every held item after training."""
    scores = json.loads((run / "after.scores.json").read_text())
    return [item["score"] for probe in scores["probes"] if probe["probe"] == "held_loss" for item in probe["items"]]


def test_a_run_of_two_processes_is_the_run_of_one(tmp_path: Path) -> None:
    for out, more, program in (
        ("one", (), ("-m", "tempering")),
        ("two", ("--processes", "2"), ("-m", "tempering")),
        (
            "torchrun",
            (),
            ("-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "-m", "tempering"),
        ),
    ):
        code, told, err = temper(tmp_path, *SFT, "--steps", "4", "--out", out, *more, program=program)
        assert code == 0, err
        # One voice: the ledger once, and each phase once.
        assert told.count("p adj: Holm") == 1 and err.count("saving the model") == 1
        assert json.loads((tmp_path / out / "status.json").read_text())["state"] == "done"
    for out in ("two", "torchrun"):
        assert losses(tmp_path / out) == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
        assert len(nll(tmp_path / out)) == 5 and nll(tmp_path / out) == pytest.approx(nll(tmp_path / "one"), rel=1e-5)


def test_matrices_in_pieces_are_the_run_of_one(tmp_path: Path) -> None:
    for out, more in (("one", ()), ("tensor", ("--processes", "2", "--tensor-parallel", "2"))):
        code, told, err = temper(tmp_path, *SFT, "--steps", "4", "--out", out, *more)
        assert code == 0, err
        assert told.count("p adj: Holm") == 1
    assert losses(tmp_path / "tensor") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    assert nll(tmp_path / "tensor") == pytest.approx(nll(tmp_path / "one"), rel=1e-5)


def test_one_side_that_is_killed_is_named(tmp_path: Path) -> None:
    process = start(tmp_path, *SFT, "--steps", "400", "--out", "run", "--processes", "2", "--tensor-parallel", "2")
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or metrics.read_text().count("\n") < 2):
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (second,) = [pid for pid in children if b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")]
    os.kill(int(second), signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == 1
    (sentence,) = [line for line in err.splitlines() if line.startswith("temper:")]
    assert "process 1 of this run was killed by SIGKILL after step" in sentence


def test_what_is_wrong_is_said_once(tmp_path: Path) -> None:
    code, _, err = temper(tmp_path, *SFT, "--steps", "4", "--out", "run", "--processes", "2", "--lr", "1e30", "--clip", "1e30")
    assert code == 2
    (sentence,) = [line for line in err.splitlines() if line.startswith("temper:")]
    assert "the loss is" in sentence and "Traceback" not in err


def test_sigterm_stops_all_with_a_checkpoint_and_one_process_goes_on(tmp_path: Path) -> None:
    assert temper(tmp_path, *SFT, "--steps", "30", "--out", "whole")[0] == 0
    process = start(tmp_path, *SFT, "--steps", "30", "--out", "run", "--processes", "2")
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or metrics.read_text().count("\n") < 3):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 130
    (sentence,) = [line for line in err.splitlines() if line.startswith("temper:")]
    assert "stopped by SIGTERM at step" in sentence and "go on with: temper run sft --resume" in sentence
    code, _, err = temper(tmp_path, "run", "sft", "--resume", "run")
    assert code == 0, err
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "whole"), abs=1e-4)


RL = ["--model", "builtin:tiny", "--tasks", "8", "--batch-size", "3", "--samples", "3", "--max-new-tokens", "12", "--max-test", "4"]
RL += ["--keep", "none", "--precision", "fp32", "--again"]


@pytest.mark.parametrize("more", ["grpo --r 4 --kl 0.1 --old trainer", "ppo --scope full --kl-cost 0.1"])
def test_reinforcement_in_two_processes_is_that_of_one(tmp_path: Path, more: str) -> None:
    words = ["run", *more.split(), *RL, "--lr", "1e-4", "--steps", "4"]
    for out, how in (("one", ()), ("two", ("--processes", "2"))):
        code, told, err = temper(tmp_path, *words, "--out", out, *how)
        assert code == 0, err
        assert told.count("p adj: Holm") == 1 and err.count("saving the model") == 1
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    rewards = [[json.loads(line).get("reward") for line in (tmp_path / out / "metrics.jsonl").read_text().splitlines()] for out in ("one", "two")]
    assert rewards[0] == rewards[1] and rewards[0][0] is not None, "the same conversations"
    after = [json.loads((tmp_path / out / "after.scores.json").read_text())["probes"][0]["items"] for out in ("one", "two")]
    assert [item["score"] for item in after[0]] == [item["score"] for item in after[1]]


def test_recipes_that_sample_outside_of_their_trainings_are_refused(tmp_path: Path) -> None:
    code, _, err = temper(tmp_path, "run", "reft", *RL, "--steps", "2", "--processes", "2")
    assert code == 2
    (sentence,) = [line for line in err.splitlines() if line.startswith("temper:")]
    assert "leave out --processes" in sentence and not (tmp_path / "runs").exists()


def test_a_local_ray_cluster_runs_the_same(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    words = [*SFT, "--steps", "4"]
    assert temper(tmp_path, *words, "--out", "one")[0] == 0
    code, told, err = temper(tmp_path, *words, "--out", "ray", "--processes", "2", "--cluster", "local")
    assert code == 0, told + err
    assert told.count("saving the model") == 1
    assert losses(tmp_path / "ray") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    code, _, err = temper(tmp_path, *words, "--out", "bad", "--processes", "2", "--cluster", "local", "--lr", "1e30", "--clip", "1e30")
    assert code == 2
    (sentence,) = [line for line in err.splitlines() if line.startswith("temper:")]
    assert "the loss is" in sentence


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    code, _, err = temper(tmp_path, *SFT, "--out", "run", "--processes", "2", "--cluster", "127.0.0.1:1")
    assert code == 2 and "--cluster 127.0.0.1:1: no Ray cluster can be reached there" in err
