"""Whether an answer's code passes tests: two sandboxes, one for the answer, one for the tests, and a verdict that the answer cannot reach.

The tests' process calls the answer's functions by messages and compares what comes back, plain data, by itself; the answer's process sees arguments
and nothing else: no test, no expected value. So an answer passes by returning what the tests expect or not at all. `sys.exit(0)`, a printed marker,
an `__eq__` of its own, import hooks, a patched `assert` or forged results change its own process only. The verdict comes over a pipe of the tests'
process with a nonce made for this run; standard output and exit codes are not looked at. Both are untrusted: tests come from data.

What a test can say is bounded by that: arguments and results are plain data (`values.py`); other objects can be handed back to the answer and are
equal to themselves only; what a function does to its arguments is not seen.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import json
import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempering.sandbox.run import Level, Limits, Running

_HERE = Path(__file__).parent
_PIPE = 1 << 20
"""Bytes of verdicts that fit: the pipe is read when the tests are over."""


@dataclass(frozen=True)
class Verdict:
    """What came of each test."""

    passed: tuple[bool, ...]
    why: tuple[str, ...]
    """Why one failed; empty where it passed."""
    lines: tuple[int, ...] = ()
    """The line of the answer's code, from 1, in which a failed one's error arose, as the answer's process says; 0 where it tells of none."""

    @property
    def share(self) -> float:
        """Of the tests, how many passed."""
        return sum(self.passed) / len(self.passed)


def judge(
    code: str, tests: Sequence[str], *, setup: str = "", entry: str = "", limits: Limits | None = None, isolation: Level = "namespaces"
) -> Verdict:
    """Test an answer's code.

    Args:
        code: the answer, a module of Python.
        tests: each a piece of Python that raises where it fails, an `assert` as a rule, and calls functions of the answer by name.
        setup: Python that the tests need; it stands in their process.
        entry: the answer's function that is tested; without it, every name that the tests use and do not define is one of the answer's.
        limits: of each of the two processes.

    Raises:
        UserError: this machine does not allow the isolation.
    """
    nonce = secrets.token_hex(16)
    values, beside_answer, beside_tests = (
        (_HERE / name).read_text(encoding="utf-8") for name in ("values.py", "inside_answer.py", "inside_tests.py")
    )
    options: dict[str, Any] = {"limits": limits, "capture": False, "isolation": isolation}
    with contextlib.ExitStack() as open_files:
        ours, theirs = (open_files.enter_context(end) for end in socket.socketpair())
        heard, said = os.pipe()
        open_files.callback(os.close, heard)
        try:
            fcntl.fcntl(said, fcntl.F_SETPIPE_SZ, _PIPE)
            told = json.dumps({"channel": theirs.fileno()})
            files = {"values.py": values, "answer.py": code}
            answer = Running(beside_answer, stdin=told, files=files, channels=[theirs.fileno()], **options)
            theirs.close()
            try:
                told = json.dumps({"channel": ours.fileno(), "verdict": said, "nonce": nonce, "setup": setup, "tests": list(tests), "entry": entry})
                running = Running(beside_tests, stdin=told, files={"values.py": values}, channels=[ours.fileno(), said], **options)
                ours.close()
                running.wait()
            finally:
                answer.stop()
                answer.wait()
        finally:
            os.close(said)
        with open(heard, "rb", closefd=False) as file:
            lines = file.read().splitlines()
    passed, why, at = [False] * len(tests), ["it did not end in time"] * len(tests), [0] * len(tests)
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
            found = json.loads(line)
            if hmac.compare_digest(str(found["nonce"]), nonce):
                i = found["test"]
                passed[i], why[i], at[i] = found["passed"] is True, str(found["why"]), int(found["line"])
    return Verdict(tuple(passed), tuple(why), tuple(at))
