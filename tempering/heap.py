"""The C library's heap, while models are trained on a CPU.

For an aligned block glibc takes some room more and hands what it did not need straight back. Such a scrap goes to a list of small blocks (tcache,
fastbins), from where the next object of a few bytes gets it and stays; or it waits there, and never joins its neighbour again. So when the tensor
beside it goes, its place is a little too small for the next tensor of the same size, and training leaves a hole beside nearly every tensor that it
keeps. Without those lists the scraps join their neighbours, at the same speed (docs/memory.md has figures).

glibc reads this once, when a process starts; so `temper` starts itself again with it. Processes that it starts inherit it.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

SETTING = "glibc.malloc.tcache_max=16:glibc.malloc.mxfast=0"
VARIABLE = "GLIBC_TUNABLES"
_CARDS = ("/dev/nvidiactl", "/dev/kfd")
"""Where tensors lie on a GPU the heap holds small blocks, which those lists are for."""


def settled() -> bool:
    """Whether this process was started with `SETTING`."""
    return SETTING in os.environ.get(VARIABLE, "")


def on_gpu() -> bool:
    """Whether this machine has a GPU, as far as can be told at no cost."""
    return any(map(os.path.exists, _CARDS))


def settle(arguments: Sequence[str]) -> None:
    """Start the program again with `SETTING`: the same process, with the same words. Nothing happens where it would not help, or the user chose.

    Args:
        arguments: the words after the program's name; help is answered as it is, because it should take no time.
    """
    if arguments and not {"-h", "--help", "--version"} & set(arguments) and _wanted():
        given = os.environ.get(VARIABLE)
        environment = {**os.environ, VARIABLE: f"{given}:{SETTING}" if given else SETTING}
        # Where that fails it runs as it is, in more memory.
        with suppress(OSError):
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def give_back() -> None:
    """Hand memory that is free in the heap back to the system: after large work that is done once, such as converting or copying a model. Nothing
    happens where the C library is not glibc."""
    if _glibc():
        import ctypes

        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)


def _wanted() -> bool:
    chosen = "glibc.malloc" in os.environ.get(VARIABLE, "") or os.environ.get("LD_PRELOAD")
    return bool(_glibc() and not chosen and sys.executable and sys.gettrace() is None and not on_gpu())


def _glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):  # another system, another C library
        return False
