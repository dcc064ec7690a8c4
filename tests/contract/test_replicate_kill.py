"""A claim that is killed goes on where it was: worker processes end with the one that started them, and no arm is run twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT


def begin(store: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "TEMPERING_HOME": str(store), "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "tempering", "replicate", "dpo", "--quick"]
    return subprocess.Popen(
        words,
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # Tests that a script started in the background ignore Ctrl-C, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def arms(store: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (store / "replications").rglob("*.json")}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_what_was_done_is_not_run_again(tmp_path: Path, how: signal.Signals) -> None:
    first = begin(tmp_path)
    deadline = time.monotonic() + 250
    while not arms(tmp_path) and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(first.pid, how)
    told, _ = first.communicate(timeout=60)
    if how is signal.SIGINT:
        assert first.returncode == 130 and "goes on from there" in told and "Traceback" not in told
    # The worker ends with its arm; until then it is still the parent's only child, in this session.
    while subprocess.run(["pgrep", "-s", str(first.pid)], capture_output=True).returncode == 0 and time.monotonic() < deadline:
        time.sleep(0.1)
    kept = arms(tmp_path)
    assert 1 <= len(kept) < 4
    for path in (tmp_path / "replications").rglob("*.json"):
        assert json.loads(path.read_text())["values"]
    second = begin(tmp_path)
    told, _ = second.communicate(timeout=280)
    assert second.returncode == 0 and told.count("kept from before") == len(kept), told
    assert len(arms(tmp_path)) == 4 and {name: arms(tmp_path)[name] for name in kept} == kept
