"""`--processes N`: the same command as several processes of one run on this machine, watched until the last has ended.

Each process is the command line once more, with its rank in the environment as torchrun sets it; the first one's output is the user's. Where one
fails or dies, the others, who would wait for it, are stopped within seconds and the user gets one sentence: which process, how it ended, its last
step. Ctrl-C and SIGTERM are passed on once, so that the run ends with a checkpoint. Processes whose launcher is gone end by themselves.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tempering.distributed.word import FOLDER, read

POLL_S = 0.05
GRACE_S = 10.0
"""How long the others may take to end by themselves once one has failed: they notice, and the one that stops well may still write its report."""
KILL_S = 5.0


class Child(Protocol):
    """A process that is watched: `subprocess.Popen`, or one on another machine."""

    def poll(self) -> int | None:
        """The exit code; minus the signal that killed it; None while it runs."""
        ...

    def send_signal(self, number: int, /) -> None: ...


def launch(command: Sequence[str], processes: int) -> tuple[int, str]:
    """Run a command as `processes` processes of one run.

    Args:
        command: the program and its arguments, the same for all.

    Returns:
        (exit code, the sentence that says what went wrong; "" for nothing that the user has not read yet).
    """
    with tempfile.TemporaryDirectory(prefix="tempering-run-") as name:
        folder = Path(name)
        env = {**os.environ, **environment(processes), FOLDER: name, "TEMPERING_RENDEZVOUS": f"file://{name}/rendezvous"}
        children = []
        for rank in range(processes):
            with (folder / f"{rank}.log").open("wb") as log:
                quiet: dict[str, Any] = {} if rank == 0 else {"stdout": subprocess.DEVNULL, "stderr": log}
                mine = {**env, "RANK": str(rank), "LOCAL_RANK": str(rank), "TEMPERING_LAUNCHER": str(os.getpid())}
                # In a session of its own, a process hears of Ctrl-C once: from us.
                children.append(subprocess.Popen(command, env=mine, stdin=subprocess.DEVNULL, start_new_session=True, **quiet))
        with passed_on(children):
            codes = watch(children)
        return verdict(codes, folder)


def environment(processes: int) -> dict[str, str]:
    """What every process of a run on this machine is told, save its rank: how many they are, and its share of the cores."""
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    return {"WORLD_SIZE": str(processes), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}


@contextmanager
def passed_on(children: Sequence[Child]) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM go to all children, once each."""

    def handle(number: int, frame: Any) -> None:
        for child in children:
            child.send_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def watch(children: Sequence[Child], every_s: float = POLL_S) -> dict[int, int]:
    """Rank -> exit code of those that ended by themselves, when all have ended."""
    codes: dict[int, int] = {}
    failed_at = 0.0
    while True:
        for rank, child in enumerate(children):
            if rank not in codes and (code := child.poll()) is not None:
                codes[rank] = code
                if code != 0 and not failed_at:
                    failed_at = time.monotonic()
        if len(codes) == len(children):
            return codes
        if failed_at and time.monotonic() - failed_at > GRACE_S:
            left = [child for rank, child in enumerate(children) if rank not in codes]
            for stop in (signal.SIGTERM, signal.SIGKILL):
                for child in left:
                    child.send_signal(stop)
                until = time.monotonic() + KILL_S
                while any(child.poll() is None for child in left) and time.monotonic() < until:
                    time.sleep(every_s)
            return codes
        time.sleep(every_s)


def verdict(codes: Mapping[int, int], folder: Path) -> tuple[int, str]:
    """(exit code, sentence) of a run from the exit codes by rank and the words that its processes left.

    A process that was killed is the cause before any that failed, and one that failed before those that only lost contact.
    """
    bad = {rank: code for rank, code in sorted(codes.items()) if code != 0}
    if not bad:
        return 0, ""
    words = {rank: read(folder, rank) for rank in bad}

    def blame(rank: int) -> tuple[bool, bool, int]:
        return bad[rank] >= 0, words[rank].lost, rank

    cause = min(bad, key=blame)
    code, word = bad[cause], words[cause]
    who = f"process {cause} of this run"
    if code < 0:
        killed = signal.Signals(-code).name
        mend = "; the machine may be out of memory" if killed == "SIGKILL" else ""
        return 1, f"{who} was killed by {killed} after step {word.step}{mend}; the others were stopped; go on with --resume"
    if word.sentence and not word.lost:
        return code, word.sentence if cause == 0 or code in (2, 3, 130) else f"{who}, after step {word.step}: {word.sentence}"
    last = _last_line(folder / f"{cause}.log")
    return (
        code,
        f"{who} ended with exit code {code} after step {word.step}{f': {last}' if last else ''}; the others were stopped; go on with --resume",
    )


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").split("\n") if path.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:300]


def end_with_launcher() -> None:
    """In a launched process: end at once when the launcher is gone, so that nobody trains unseen into a folder that is resumed elsewhere."""
    launcher = os.environ.get("TEMPERING_LAUNCHER")
    if launcher is None:
        return

    def look() -> None:
        while os.getppid() == int(launcher):
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()
