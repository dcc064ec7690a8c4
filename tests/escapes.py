"""Programs that try to get out of the sandbox, shared by the tests as they run and as another user (`python -m tests.escapes`).

Each prints a line for everything it got away with, and nothing else; where a limit must end it, `ended` says which.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tempering.sandbox.run import Limits, Outcome, Running, at_once

QUICK = Limits(wall=1.5, cpu=0.4)
BUSY = ("cpu", "wall")
"""Whichever comes first on a busy machine."""
_TRY = """
import os, sys, signal, socket, json
given = json.loads(sys.stdin.read())
def attempt(what, function):
    try:
        found = function()
    except Exception:
        return
    if found is not False:
        print(what, repr(found)[:80], flush=True)
"""


@dataclass(frozen=True)
class Escape:
    """An attempt, and how it must end."""

    name: str
    program: str
    ended: tuple[str, ...] = ("",)
    limits: Limits = QUICK


ESCAPES = (
    Escape(
        "a fork bomb",
        "import os\nwhile True:\n try: os.fork()\n except OSError: pass",
        (*BUSY, "processes"),
    ),
    Escape("a memory bomb", "attempt('a gigabyte', lambda: bytearray(10**9) and 1)"),
    Escape(
        "a memory bomb of many",
        "import time\nfor _ in range(3): os.fork()\nblock = bytearray(30 << 20)\ntime.sleep(5)",
        ("memory",),
        replace(QUICK, memory=150 << 20, wall=3),
    ),
    Escape("memory that no process holds", "attempt('memfd', lambda: os.memfd_create('x'))"),
    Escape("huge output", "while True: sys.stdout.write('.' * 4096)", ("output",)),
    Escape("huge errors", "while True: sys.stderr.write('.' * 4096)", ("output",)),
    Escape("killing us", "attempt('kill', lambda: os.kill(given['pid'], 9)); attempt('group', lambda: os.killpg(given['pid'], 9))"),
    Escape(
        "killing the keeper",
        "for number in (2, 9, 15, 19):\n attempt('a look', lambda: open('/proc/1/mem', 'rb').read(1))\n os.kill(1, number)",
    ),
    Escape(
        "files outside",
        "for path in given['files']:\n attempt(path, lambda: open(path).read(9)); attempt(path, lambda: os.listdir(path))\n"
        "attempt('write', lambda: open('/usr/here', 'w')); attempt('write', lambda: open('/here', 'w'))\n"
        "attempt('write', lambda: os.mkdir('/etc/x'))\n"
        "attempt('write', lambda: open(os.__file__, 'a'))",
    ),
    Escape("a full disk", "attempt('too much', lambda: [open(str(i), 'wb').write(bytes(10 << 20)) for i in range(3)])"),
    Escape("many files", "attempt('too many', lambda: [open(str(i), 'wb').close() for i in range(20000)])", ("", *BUSY)),
    Escape(
        "the network",
        "attempt('tcp', lambda: socket.create_connection(('127.0.0.1', given['port']), 0.3))\n"
        "attempt('udp', lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('8.8.8.8', 53)))\n"
        "attempt('raw', lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))\n"
        "unix = socket.socket(socket.AF_UNIX)\nattempt('unix', lambda: unix.connect('\\0' + given['unix']))\n"
        "attempt('names', lambda: socket.gethostbyname('localhost.localdomain'))",
    ),
    Escape(
        "links",
        "for i, path in enumerate(given['files']):\n for there in (path, '/proc/1/root' + path, '../..' + path, '/proc/1/cwd' + path):\n"
        "  name = f'l{i}{len(there)}'\n  attempt('link', lambda: os.symlink(there, name) is not None)\n  attempt(there, lambda: open(name).read(9))\n"
        "  attempt('hard', lambda: os.link(there, name + 'h'))",
    ),
    Escape(
        "/proc",
        "mine = {int(n) for n in os.listdir('/proc') if n.isdigit()}\nif mine != {1, os.getpid()}: print('others', mine)\n"
        "for path in ('/proc/1/environ', '/proc/1/mem', '/proc/1/maps', '/proc/kcore', '/proc/1/fd/0'):\n"
        " attempt(path, lambda: open(path, 'rb').read(1))\n"
        "for path in ('/proc/sysrq-trigger', '/proc/sys/kernel/core_pattern', '/proc/sys/vm/drop_caches', '/proc/1/oom_score_adj'):\n"
        " attempt(path, lambda: open(path, 'w').write('1'))",
    ),
    Escape(
        "what it inherits",
        "fds = {int(n) for n in os.listdir('/proc/self/fd')} - {0, 1, 2, 3}\nif fds: print('files', fds)\n"
        "if set(os.environ) - {'PATH', 'HOME', 'TMPDIR', 'LANG', 'OMP_NUM_THREADS', 'LC_CTYPE'}: print(os.environ)",
    ),
    Escape(
        "more rights",
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "tries = {'unshare': (0x10000000,), 'mount': (b'x', b'/tmp', b'tmpfs', 0, None), 'chroot': (b'/tmp',), 'ptrace': (16, 1, 0, 0)}\n"
        "tries |= {'setns': (0, 0), 'sethostname': (b'x', 1), 'umount2': (b'/proc', 2), 'setuid': (0,), 'shmget': (0, 4096, 0o1666)}\n"
        "for name, arguments in tries.items():\n if getattr(libc, name)(*arguments) >= 0: print(name)\n"
        "if libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0) > 0: print('clone')\n"
        "status = open('/proc/self/status').read()\n"
        "if 'CapEff:\\t0000000000000000' not in status or 'NoNewPrivs:\\t1' not in status: print(status)\n"
        "import resource\nattempt('a limit', lambda: resource.setrlimit(resource.RLIMIT_NPROC, (999, 999)))",
    ),
    Escape(
        "signals ignored",
        "for n in range(1, 65):\n attempt(n, lambda: signal.signal(n, signal.SIG_IGN) is None)\nwhile True: pass",
        BUSY,
    ),
    Escape("sleeping for ever", "import time\ntime.sleep(1000)", ("wall",)),
    Escape("threads that never end", "import threading\nfor _ in range(4): threading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()", BUSY),
    Escape(
        "many threads",
        "import threading, time\ndef more():\n while True: threading.Thread(target=time.sleep, args=(9,)).start()\n"
        "attempt('threads', more)\nos._exit(0)",
        ("", "processes"),
    ),
    Escape(
        "a process left behind",
        "import time\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0:\n  signal.signal(15, signal.SIG_IGN); time.sleep(1000)\n os._exit(0)",
    ),
    Escape("standard streams closed", "for n in (0, 1, 2): os.close(n)\nos.closerange(0, 99)"),
)


@contextmanager
def outside() -> Iterator[dict[str, object]]:
    """Things that an escape would reach: a listening port, a socket, files of ours, a process."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        name = secrets.token_hex(8)
        unix.bind("\0" + name)
        unix.listen()
        files = [str(Path(__file__)), "/etc/passwd", "/etc/hostname", "/home", "/var/log", os.getcwd(), str(Path.home() / ".ssh")]
        yield {"pid": os.getpid(), "port": tcp.getsockname()[1], "unix": name, "files": files}


def left(mark: str) -> list[str]:
    """Processes that bear a mark, zombies too: every program here gives itself a name, which all that it starts inherits."""
    found = []
    for place in Path("/proc").glob("[0-9]*/comm"):
        try:
            found += [str(place)] if place.read_text() == f"{mark}\n" else []
        except OSError:
            continue
    return found


def played(escapes: Sequence[Escape], workers: int = 4) -> tuple[list[Outcome], list[str]]:
    """How each ended, and what is left running."""
    mark = f"esc{secrets.token_hex(5)}"
    with outside() as given:
        before = f"open('/proc/self/comm', 'w').write({mark!r})\n{_TRY}\n"

        def play(escape: Escape) -> Outcome:
            return Running(before + escape.program, stdin=json.dumps(given), limits=escape.limits).wait()

        return at_once(play, escapes, workers), left(mark)


def wrong(escape: Escape, outcome: Outcome) -> str:
    """What is wrong with how an attempt ended; empty where nothing is."""
    heard = "" if "output" in escape.ended else outcome.stdout
    if heard or outcome.ended not in escape.ended or (outcome.ended == "" and outcome.exit_code != 0 and "MemoryError" not in outcome.stderr):
        return f"{escape.name}: {outcome}"
    return ""


if __name__ == "__main__":
    outcomes, running = played(ESCAPES)
    print(json.dumps({"wrong": [found for pair in zip(ESCAPES, outcomes, strict=True) if (found := wrong(*pair))], "left": running}))
    sys.exit(0)
