"""Starts child processes by forking one that has everything imported, so that a test of many processes pays for one import.

A child calls a function of a test module with JSON-able arguments and exits with the number it returns. Several at once are the processes of one
run: each has its rank in the environment, as torchrun would set it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class Nursery:
    """The process that forks; use `nursery()`."""

    def __init__(self) -> None:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.nursery"]
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._answer() == "ready"

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def start(self, function: str, *args: Any, processes: int = 1) -> list[int]:
        """Start `package.module:name` in new processes; their ids."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([function, args, processes]) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def codes(self) -> list[int]:
        """The exit code of each child, when all have ended; minus the signal that killed it."""
        return self._answer()

    def run(self, function: str, *args: Any, processes: int = 1) -> None:
        """Start, wait, and expect that all went well."""
        self.start(function, *args, processes=processes)
        codes = self.codes()
        assert codes == [0] * processes, f"{function}{args} on {processes} processes: exit codes {codes}"


@contextmanager
def nursery() -> Iterator[Nursery]:
    """A nursery that ends with the block."""
    made = Nursery()
    try:
        yield made
    finally:
        made.process.stdin.close()  # type: ignore[union-attr]
        made.process.stdout.close()  # type: ignore[union-attr]
        made.process.wait()


def _child(function: str, args: list[Any], rank: int, size: int, rendezvous: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "TEMPERING_RENDEZVOUS": f"file://{rendezvous}"}
    module, _, name = function.partition(":")
    code = 1
    try:
        code = getattr(import_module(module), name)(*args) or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _main() -> None:
    import peft  # noqa: F401
    import torch
    import torch.distributed.checkpoint.staging

    import tempering.distributed.shard
    import tempering.fit  # noqa: F401

    torch.set_num_threads(1)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        function, args, size = json.loads(line)
        import_module(function.partition(":")[0])
        with tempfile.TemporaryDirectory() as folder:
            children = []
            for rank in range(size):
                children.append(os.fork())
                if not children[-1]:
                    _child(function, args, rank, size, f"{folder}/rendezvous")
            print(json.dumps(children), flush=True)
            print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)


if __name__ == "__main__":
    _main()
