"""The sandbox: how programs end, that nothing gets out and nothing is left, as root and as nobody, one at a time and many at once."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tempering import doctor
from tempering.errors import UserError
from tempering.sandbox import run as sandbox
from tempering.sandbox.run import Limits, Running, at_once, level, run, run_async
from tests.conftest import ROOT
from tests.escapes import ESCAPES, QUICK, left, played, wrong

pytestmark = pytest.mark.skipif(level()[0] != "namespaces", reason=f"no namespaces here: {level()[1]}")


@pytest.fixture(scope="module")
def escapes() -> dict[str, str]:
    """What was wrong with how each attempt ended, all played once."""
    outcomes, running = played(ESCAPES)
    return {"left": " ".join(running)} | {e.name: wrong(e, o) for e, o in zip(ESCAPES, outcomes, strict=True)}


@pytest.mark.parametrize("name", ["left", *(escape.name for escape in ESCAPES)])
def test_nothing_escapes(escapes: dict[str, str], name: str) -> None:
    assert not escapes[name]


def closed_to_others(path: Path) -> Path | None:
    """The first folder on the way to a path that other users may not enter."""
    return next((place for place in [*reversed(path.parents), path] if not place.stat().st_mode & 0o001), None)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("setpriv"), reason="needs root, to become someone else")
def test_nothing_escapes_from_a_user_without_rights() -> None:
    """As nobody, in a mount namespace where the interpreter can be reached, wherever root keeps it."""
    prefix, shut = Path(sys.base_prefix), closed_to_others(Path(sys.base_prefix))
    opened = f"mount --bind {prefix} /mnt && mount -t tmpfs -o mode=755 none {shut} && mkdir -p {prefix} && mount --move /mnt {prefix} && "
    script = f"{opened if shut else ''}exec setpriv --reuid=65534 --regid=65534 --clear-groups {sys.executable} -m tests.escapes"
    child = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60
    )
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout) == {"wrong": [], "left": []}


def test_a_program_reads_and_prints_and_ends_as_it_likes() -> None:
    found = run("import sys; print(sys.stdin.read()[::-1]); print('é', file=sys.stderr); sys.exit(7)", stdin="abc\n")
    assert (found.stdout, found.stderr, found.exit_code, found.ended, found.ok) == ("\ncba\n", "é\n", 7, "", False)
    assert run("import os; os.kill(os.getpid(), 9)").exit_code == -9
    assert run(["/bin/sh", "-c", "cat data; echo $HOME; id -u"], files={"data": "1\n"}).stdout == "1\n/tmp\n65534\n"
    assert run("import json, sqlite3, ssl, subprocess, multiprocessing; print(subprocess.run(['/bin/echo', 'x'], capture_output=True).stdout)").ok


def test_limits_are_kept_and_told() -> None:
    wall, cpu, printed = at_once(
        lambda job: run(job[0], limits=job[1]),
        [
            ("import time; time.sleep(9)", replace(QUICK, wall=0.3)),
            ("while True: pass", replace(QUICK, cpu=0.2)),
            ("print('x' * 5000)", replace(QUICK, output=1000)),
        ],
    )
    assert (wall.ended, wall.exit_code, cpu.ended, printed.ended) == ("wall", None, "cpu", "output")
    assert wall.seconds >= 0.3 and cpu.cpu >= 0.2 and printed.stdout == "x" * 1000
    at_the_limit = run("print('x' * 999)", limits=replace(QUICK, output=1000))
    assert at_the_limit.ok and len(at_the_limit.stdout) == 1000


def test_a_run_can_be_stopped_from_another_thread() -> None:
    running = Running("import time; time.sleep(1000)")
    threading.Timer(0.2, running.stop).start()
    assert running.wait().ended == "stopped"


def test_the_event_loop_is_not_blocked() -> None:
    async def both() -> list[str]:
        return [outcome.stdout for outcome in await asyncio.gather(run_async("print(1)"), run_async("print(2)"))]

    assert asyncio.run(both()) == ["1\n", "2\n"]


def leaves_nothing(programs: int, workers: int) -> None:
    """Many at once: each gets its own answer, and no process, file, thread or folder stays."""
    mark = f"many{os.getpid()}"
    gc.collect()
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    program = f"open('/proc/self/comm', 'w').write({mark!r})\nimport os\nos.fork()\nopen('here', 'a').write('x')\n"
    texts = [f"{program}print({i})" for i in range(programs)]
    outcomes = at_once(lambda program: run(program, limits=Limits(wall=60)), texts, workers)
    assert [outcome.stdout.split()[0] for outcome in outcomes] == [str(i) for i in range(programs)]
    assert not left(mark)
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


def test_many_at_once_leave_nothing() -> None:
    leaves_nothing(16, 16)


@pytest.mark.slow
def test_a_hundred_at_once_leave_nothing() -> None:
    leaves_nothing(100, 100)


def test_the_end_of_its_caller_is_its_end(tmp_path: Path) -> None:
    """Killed outright, a caller cannot clean up; its runs end by themselves."""
    mark = f"orphan{os.getpid()}"
    program = f"open('/proc/self/comm', 'w').write({mark!r}); import time; time.sleep(1000)"
    caller = subprocess.Popen(
        [sys.executable, "-c", f"from tempering.sandbox.run import run; run({program!r})"], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    deadline = time.monotonic() + 20
    while not left(mark) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left(mark)
    caller.kill()
    caller.wait()
    while left(mark) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left(mark)


def test_limits_alone_keep_limits_and_sweep() -> None:
    """The weaker level, with the system's interpreter, which others may start too."""
    python = next((path for path in ("/usr/bin/python3", "/usr/local/bin/python3") if os.path.exists(path)), None)
    if python is None:
        pytest.skip("no interpreter that other users may start")
    mark = f"plain{os.getpid()}"
    leave = f"import os, time\nopen('/proc/self/comm', 'w').write({mark!r})\nif os.fork() == 0:\n os.setsid()\n time.sleep(1000)\nprint(os.getcwd())"
    bomb = f"import os\nopen('/proc/self/comm', 'w').write({mark!r})\nwhile True:\n try: os.fork()\n except OSError: pass"
    one, two = (run([python, "-c", program], limits=QUICK, isolation="limits") for program in (leave, bomb))
    assert one.ok and two.ended in ("cpu", "wall", "processes")
    assert not left(mark) and not Path(one.stdout.strip()).exists()


def test_what_cannot_be_started_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"/nowhere.*No such file"):
        run(["/nowhere"])
    with pytest.raises(UserError, match=r"a file named '\.\./x'"):
        run("", files={"../x": ""})
    with pytest.raises(UserError, match="cpu is 0; give a number above 0"):
        Limits(cpu=0)


@pytest.mark.parametrize(("found", "mark"), [("namespaces", "ok"), ("limits", "note"), (None, "note")])
def test_the_doctor_says_which_level_there_is(found: str | None, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "level", lambda: (found, "unshare: Operation not permitted"))
    (line,) = doctor._sandbox()
    assert line.mark == mark and (mark == "ok" or ("Operation not permitted" in line.found and "user namespaces" in line.mend))


def test_a_machine_without_namespaces_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the map of users is refused, nothing runs and the reason is said."""

    def refused(self: Running) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(sandbox.Running, "_map", refused)
    with pytest.raises(UserError, match="Operation not permitted"):
        run("print(1)")
