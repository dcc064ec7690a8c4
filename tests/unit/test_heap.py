"""The setting of the C library's heap: when `temper` starts itself again for it, and what it does to a heap."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tempering import heap

GLIBC = pytest.mark.skipif(not heap._glibc(), reason="the C library is not glibc")
HEAP = """
import ctypes
libc = ctypes.CDLL(None)
libc.free.argtypes, libc.malloc.restype = [ctypes.c_void_p], ctypes.c_void_p


def block(size):
    place = ctypes.c_void_p()
    assert libc.posix_memalign(ctypes.byref(place), ctypes.c_size_t(64), ctypes.c_size_t(size)) == 0
    return place


# A large block is a map of its own at first; when it goes, glibc takes blocks up to its size from the heap from then on.
libc.free(block(31 << 20))
# As in a forward pass: one tensor goes, one stays, and between them come objects of a few bytes, which stay.
for _ in range(100):
    goes = block(4 << 20)
    stays = block(64 << 10)
    small = [libc.malloc(size) for size in range(8, 129, 8)]
    libc.free(goes)


class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]


libc.mallinfo2.restype = Info
print(libc.mallinfo2().arena >> 20)
"""


def unset() -> dict[str, str]:
    """The environment of somebody who chose nothing."""
    return {name: value for name, value in os.environ.items() if name not in (heap.VARIABLE, "LD_PRELOAD")}


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The environments that the program was started again with."""
    found: list[dict[str, str]] = []
    monkeypatch.setattr(os, "execve", lambda program, words, environment: found.append(environment))
    monkeypatch.setattr(heap, "_glibc", lambda: True)
    monkeypatch.setattr(heap, "_CARDS", ())
    monkeypatch.setattr(sys, "gettrace", lambda: None)
    for name in (heap.VARIABLE, "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    return found


def test_the_program_starts_again_once(starts: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    heap.settle(["run", "sft"])
    assert starts[0][heap.VARIABLE] == heap.SETTING and starts[0]["PATH"] == os.environ["PATH"]
    monkeypatch.setenv(heap.VARIABLE, starts[0][heap.VARIABLE])
    assert heap.settled()
    heap.settle(["run", "sft"])
    assert len(starts) == 1


def test_another_setting_of_glibc_stays_beside_it(starts: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(heap.VARIABLE, "glibc.cpu.hwcaps=-AVX512F")
    heap.settle(["run"])
    assert starts[0][heap.VARIABLE] == f"glibc.cpu.hwcaps=-AVX512F:{heap.SETTING}"
    monkeypatch.setenv(heap.VARIABLE, starts[0][heap.VARIABLE])
    assert heap.settled()


@pytest.mark.parametrize(
    ("words", "set_to"),
    [
        ([], {}),
        (["--help"], {}),
        (["run", "sft", "-h"], {}),
        (["--version"], {}),
        (["run"], {heap.VARIABLE: "glibc.malloc.tcache_count=7"}),
        (["run"], {"LD_PRELOAD": "libjemalloc.so.2"}),
    ],
)
def test_it_does_not_start_again_for_help_or_over_the_users_choice(
    starts: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch, words: list[str], set_to: dict[str, str]
) -> None:
    for name, value in set_to.items():
        monkeypatch.setenv(name, value)
    heap.settle(words)
    assert starts == []


def test_it_does_not_start_again_beside_a_gpu_under_a_debugger_or_with_another_library(
    starts: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, name, value in ((heap, "_CARDS", (os.devnull,)), (sys, "gettrace", lambda: print), (heap, "_glibc", lambda: False)):
        with monkeypatch.context() as inside:
            inside.setattr(place, name, value)
            heap.settle(["run"])
    assert starts == []


def test_a_start_that_fails_is_no_failure(starts: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(program: str, words: list[str], environment: dict[str, str]) -> None:
        raise OSError

    monkeypatch.setattr(os, "execve", fails)
    heap.settle(["run"])


@GLIBC
@pytest.mark.parametrize("start", [["-m", "tempering"], ["-c", "from tempering.cli import main; raise SystemExit(main())"]])
def test_the_program_says_the_same_with_the_same_exit_code(start: list[str]) -> None:
    child = subprocess.run([sys.executable, *start, "run", "sft", "--nonsense", "a b"], env=unset(), capture_output=True, text=True)
    assert child.returncode == 2 and child.stdout == "" and child.stderr.startswith("temper: recipe sft has no flag --nonsense")


@GLIBC
def test_a_heap_with_the_setting_stays_as_small_as_what_lives() -> None:
    child = subprocess.run([sys.executable, "-c", HEAP], env=unset() | {heap.VARIABLE: heap.SETTING}, check=True, capture_output=True, text=True)
    # Of 4 MiB that come and go, 6 that stay and Python; without the setting glibc 2.36 takes 400 MiB, a hole for every turn.
    assert int(child.stdout) <= 24


@GLIBC
def test_free_memory_in_the_heap_is_given_back() -> None:
    code = """
import os
from tempering.heap import give_back

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

kept = [bytearray(64 << 10) for _ in range(2000)]
# The last one lies at the top of the heap, so that nothing below goes by itself.
kept[:-1] = []
before = resident()
give_back()
print(before - resident())
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=unset())
    assert int(child.stdout) > 100
