"""Run an untrusted program and say how it ended.

Two levels of isolation, told by `level`:

- "namespaces" (Linux 5.14 or newer, where user namespaces are allowed): the program sees a root with programs and libraries, read-only, and a /tmp
  of its own in memory; no network, no process but its own, no file of ours. It is a user without capabilities that nobody else is, cannot gain any,
  and a filter refuses system calls that no honest program needs (x86_64 and aarch64). The kernel kills all that is left of it at the end.
  A hole in the kernel is not stopped: for code from people who look for one, put a virtual machine around the whole run.
- "limits" (any other Linux): time, memory, files, processes, a clean environment, an end that sweeps up. Nothing else: a program can read and write
  what its user can, use the network, and kill processes of its user, us included. Started as root it is another user, if the interpreter is open to
  others. This guards against accidents, not against intent, so it is used only where a caller says so.

Memory is limited for each process by its address space (it sees MemoryError) and for all together by what is resident, looked up 40 times a second:
no cgroup is needed, and a burst may overshoot by what can be touched in that time. What /tmp holds is bounded by `disk` beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from tempering.errors import UserError

LAUNCHER = Path(__file__).with_name("launcher.py")
Level = Literal["namespaces", "limits"]
Ended = Literal["", "wall", "cpu", "memory", "processes", "output", "stopped"]
T = TypeVar("T")
R = TypeVar("R")
_GRACE = 10.0
"""Seconds beyond the wall limit after which the launcher itself is taken to hang."""


@dataclass(frozen=True)
class Limits:
    """What a run may use, everything it starts included.

    Raises:
        UserError: a limit that is not above 0.
    """

    wall: float = 10.0
    """Seconds from start to end."""
    cpu: float = 5.0
    """Seconds of processor time."""
    memory: int = 512 << 20
    """Bytes."""
    disk: int = 16 << 20
    """Bytes in its folder (under "limits": of each file)."""
    output: int = 64 << 10
    """Bytes printed, standard output and error together."""
    processes: int = 16
    """Processes and threads at a time."""
    files: int = 64
    """Open files of a process."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise UserError(f"sandbox limits: {field.name} is {getattr(self, field.name)!r}; give a number above 0")


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    exit_code: int | None
    """As a shell's, minus the signal's number where one ended it; None where we ended the run."""
    ended: Ended
    """The limit that ended it; empty where it ended by itself."""
    stdout: str
    stderr: str
    seconds: float
    cpu: float
    peak: int
    """Bytes resident at most, as far as was seen."""

    @property
    def ok(self) -> bool:
        """Whether it ended by itself with exit code 0. A program can have that as it likes: no verdict may rest on it."""
        return self.exit_code == 0 and not self.ended


class Running:
    """A program that has been started. `wait` must be called, once; `stop` ends it early, from any thread."""

    def __init__(
        self,
        program: str | Sequence[str],
        *,
        stdin: str = "",
        limits: Limits | None = None,
        files: Mapping[str, str] | None = None,
        channels: Sequence[int] = (),
        capture: bool = True,
        isolation: Level = "namespaces",
    ) -> None:
        self.limits, self._capture = limits or Limits(), capture
        if sys.platform != "linux":
            raise UserError("the sandbox needs Linux; run programs that models wrote in a Linux container or virtual machine")
        argv = [interpreter(), "-I", "-B", "program.py"] if isinstance(program, str) else list(program)
        contents = dict(files or {}) | ({"program.py": program} if isinstance(program, str) else {})
        if wrong := next((name for name in contents if "/" in name or name.startswith(".") or not name), None):
            raise UserError(f"sandbox: a file named {wrong!r}; files lie in the program's folder, so give plain names")
        inside = isolation == "namespaces"
        self._user = _other_user() if os.geteuid() == 0 else os.geteuid()
        self._folder = None if inside else tempfile.TemporaryDirectory(prefix="tempering-sandbox-", ignore_cleanup_errors=True)
        folder = self._folder.name if self._folder else "/tmp"
        if self._folder and os.geteuid() == 0:
            os.chown(folder, self._user, self._user)
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
        # What counts against the limit of processes before the program does: the keeper, and the launcher if it is of that user too.
        beside = (1 if os.geteuid() == 0 else 2) if inside else _tasks_of(self._user)
        given = {
            "argv": argv, "environment": environment, "stdin": stdin, "contents": contents, "limits": asdict(self.limits), "folder": folder,
            "namespaces": inside, "user": self._user, "beside": beside, "prefixes": sorted({sys.base_prefix, sys.base_exec_prefix} - {"/", "/usr"}),
        }  # fmt: skip
        self._control, theirs = socket.socketpair()
        self._begun = time.monotonic()
        pipe = subprocess.PIPE if capture else subprocess.DEVNULL
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [interpreter(), "-I", "-S", str(LAUNCHER), str(theirs.fileno()), isolation],
                    stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env={}, start_new_session=True, pass_fds=[theirs.fileno(), *channels],
                )  # fmt: skip
        except OSError as error:
            raise UserError(
                f"sandbox: the interpreter {interpreter()} cannot be started ({error.strerror}); install Python where all may use it"
            ) from None
        self._said = bytearray(self._control.recv(1))
        self._greeted = self._said == b"\n"
        try:
            if self._greeted:
                self._said.clear()
                if inside:
                    self._map()
                self._control.sendall(json.dumps(given).encode() + b"\n")
        except OSError as error:
            self.stop()
            self._said[:] = json.dumps({"broken": str(error)}).encode() + b"\n"

    def _map(self) -> None:
        """Say which user the namespace's only one is outside. Root may take any, and takes one that nobody is."""
        place = Path(f"/proc/{self._process.pid}")
        group = self._user if os.geteuid() == 0 else os.getegid()
        if os.geteuid() != 0:
            (place / "setgroups").write_text("deny")
        for name, who in (("uid_map", self._user), ("gid_map", group)):
            (place / name).write_text(f"65534 {who} 1\n")

    def stop(self) -> None:
        """End the run and all that belongs to it."""
        with contextlib.suppress(OSError):  # it has ended
            self._control.shutdown(socket.SHUT_WR)

    def wait(self) -> Outcome:
        """Wait for the end of the run.

        Raises:
            UserError: the program could not be started, or this machine does not allow the isolation that was asked for.
        """
        process, printed, said, over = self._process, {1: bytearray(), 2: bytearray()}, self._said, False
        deadline = self._begun + self.limits.wall + _GRACE
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._control, selectors.EVENT_READ, None)
                for number, file in ((1, process.stdout), (2, process.stderr)):
                    if file is not None:
                        selector.register(file, selectors.EVENT_READ, number)
                listening = not said.endswith(b"\n")
                while listening and time.monotonic() < deadline:
                    for key, _ in selector.select(deadline - time.monotonic()):
                        got = os.read(key.fd, 1 << 16)
                        if key.data is None:
                            said += got
                            # What was printed before the end is in the pipes by now; a process that got away must not keep us reading.
                            listening = bool(got) and not said.endswith(b"\n")
                        elif got:
                            room = self.limits.output - len(printed[1]) - len(printed[2])
                            printed[key.data] += got[: max(0, room)]
                            if len(got) > room and not over:
                                over = True
                                self.stop()
                        else:
                            selector.unregister(key.fileobj)
                for number, file in ((1, process.stdout), (2, process.stderr)):
                    if file is not None:
                        os.set_blocking(file.fileno(), False)
                        room = self.limits.output - len(printed[1]) - len(printed[2])
                        got = file.read(room + 1) or b""
                        over = over or len(got) > room
                        printed[number] += got[:room]
        finally:
            self._close()
        found: dict[str, Any]
        if said.endswith(b"\n"):
            found = json.loads(said)
        elif self._greeted:  # somebody ended the launcher or the keeper: under "limits" the program itself may
            found = {"status": None, "reason": "stopped", "cpu": 0.0, "peak": 0}
        else:
            found = {"broken": "the launcher ended before it began"}
        if "broken" in found:
            raise UserError(f"sandbox: could not run the program ({found['broken']}); `temper doctor` says what this machine allows")
        ended: Ended = "output" if over else found["reason"]
        code = None if ended or found["status"] is None else os.waitstatus_to_exitcode(found["status"])
        # The kernel ends a process at the limit by a signal; that is the same end as ours for all processes together.
        by_kernel = code == -signal.SIGXCPU or (code == -signal.SIGKILL and found["cpu"] >= self.limits.cpu)
        ended = "cpu" if by_kernel else ended
        out, err = (bytes(printed[number]).decode("utf-8", "replace") for number in (1, 2))
        return Outcome(None if ended else code, ended, out, err, time.monotonic() - self._begun, found["cpu"], found["peak"])

    def _close(self) -> None:
        self._control.close()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for file in (self._process.stdout, self._process.stderr):
            if file is not None:
                file.close()
        if self._folder:
            self._folder.cleanup()


def run(
    program: str | Sequence[str],
    *,
    stdin: str = "",
    limits: Limits | None = None,
    files: Mapping[str, str] | None = None,
    isolation: Level = "namespaces",
) -> Outcome:
    """Run a program to its end.

    Args:
        program: Python source (only the standard library is there), or words of a command line, the first a full path.
        stdin: what it reads.
        limits: what it may use.
        files: further files in its folder, by name.
        isolation: see above; "limits" says that you take the risk.

    Raises:
        UserError: it cannot be started, or this machine does not allow the isolation.
    """
    return Running(program, stdin=stdin, limits=limits, files=files, isolation=isolation).wait()


async def run_async(program: str | Sequence[str], **options: Any) -> Outcome:
    """`run` without blocking the event loop."""
    return await asyncio.to_thread(run, program, **options)


def at_once(function: Callable[[T], R], jobs: Sequence[T], workers: int = 0) -> list[R]:
    """A function of each job, several at a time, results in order: `at_once(run, programs)`.

    Args:
        workers: at most so many at a time; 0 takes the cores there are.
    """
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(function, jobs))


@functools.cache
def level() -> tuple[Level | None, str]:
    """(the best level that works here, why no better one does), found out by a run of each."""
    why = ""
    for isolation in ("namespaces", "limits"):
        try:
            if run("print(1)", isolation=isolation).stdout == "1\n":
                return isolation, why
            why = why or "a trial run printed nothing"
        except UserError as error:
            why = why or str(error)
    return None, why


def interpreter() -> str:
    """The interpreter itself, not a virtual environment's link to it: it is there inside."""
    return os.path.realpath(sys.executable)


def _tasks_of(user: int) -> int:
    """Threads that a user has."""
    found = 0
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found += len(os.listdir(place / "task")) if place.stat().st_uid == user else 0
    return found


def _other_user() -> int:
    """A user id that nobody has, at random, among those that this system knows."""
    *_, last = Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()
    inside, _, size = map(int, last.split())
    return inside + size - 2 - secrets.randbelow(min(size // 2, 1 << 20)) if size > 1 << 17 else 65534
