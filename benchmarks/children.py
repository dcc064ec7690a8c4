"""Starts a contender in a fresh process and takes its measure from outside: wall time and peak memory, as the system counts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, cores
from tempering import heap

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "PYTHONWARNINGS": "ignore",
}
TIMEOUT_S = 1800.0


class ChildFailed(RuntimeError):
    """A contender ended without a report; the message has the end of what it printed."""


def measured(
    command: list[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None, log: Path, timeout_s: float = TIMEOUT_S
) -> dict[str, Any]:
    """Run a command: {"code", "wall_s", "peak_bytes", "began_at"}.

    The peak is that of this one child (`os.wait4`). Linux carries the parent's own peak over into a child it starts, so the parent must stay small.
    """
    environment = {**os.environ, **OFFLINE, **(env or {})}
    with log.open("wb") as output:
        began_at, began = time.time(), time.perf_counter()
        child = subprocess.Popen(command, cwd=cwd or ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        killer = threading.Timer(timeout_s, child.kill)
        killer.start()
        try:
            _, status, usage = os.wait4(child.pid, 0)
        finally:
            killer.cancel()
        wall = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    return {"code": child.returncode, "wall_s": wall, "peak_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), "began_at": began_at}


def call(target: str, arguments: Mapping[str, Any], *, threads: int | None = None, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """`module:function` with keywords in a fresh process: its report, joined with what was measured from outside.

    Every contender has the C library's heap set as `temper` sets it for itself (tempering/heap.py). Raises ChildFailed.
    """
    number = str(threads or cores())
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        out, log = Path(scratch) / "report.json", Path(scratch) / "log.txt"
        command = [sys.executable, "-m", "benchmarks.child", target, json.dumps(dict(arguments)), str(out)]
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        settings = {"OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number, "PYTHONPATH": path, heap.VARIABLE: heap.SETTING}
        outside = measured(command, env={**settings, **(env or {})}, cwd=Path(scratch), log=log)
        if outside["code"] or not out.exists():
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
            raise ChildFailed(f"{target} {json.dumps(dict(arguments))} ended with code {outside['code']}:\n{tail}")
        return {**json.loads(out.read_text()), **outside}
