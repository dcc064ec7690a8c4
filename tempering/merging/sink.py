"""Bytes into a new file as fast as the disk takes them.

Where the system lets a file be written past its page cache, it is: filling pages with data that nobody reads again takes a processor several times
as long as a merge's arithmetic (0.5 GB/s, measured on a virtual machine, where the disk takes 1.3), and pushes the inputs out of memory.
"""

from __future__ import annotations

import errno
import os
from concurrent.futures import Future, ThreadPoolExecutor
from mmap import mmap
from pathlib import Path
from types import TracebackType
from typing import Self

BUFFER = 1 << 22
"""Bytes of one write; two such buffers take turns."""
BLOCK = 4096
"""Writes past the page cache begin, end and lie in memory at multiples of this."""
_DIRECT = getattr(os, "O_DIRECT", 0)


class Sink:
    """A file that is written from its start to its end, as a context; on the disk when the context ends.

    Raises:
        OSError: at the call after the one whose bytes could not be written, or at the end.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            self._file = os.open(path, flags | _DIRECT, 0o644)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._file = os.open(path, flags, 0o644)
        self._full, self._spare = mmap(-1, BUFFER), mmap(-1, BUFFER)
        self._filled, self._size = 0, 0
        self._behind, self._writing = ThreadPoolExecutor(1), Future[None]()
        self._writing.set_result(None)

    def put(self, raw: memoryview) -> None:
        """Append bytes; they are copied before this returns."""
        self._size += len(raw)
        while raw:
            some = raw[: BUFFER - self._filled]
            self._full[self._filled : self._filled + len(some)] = some
            self._filled, raw = self._filled + len(some), raw[len(some) :]
            if self._filled == BUFFER:
                self._turn(BUFFER)

    def _turn(self, length: int) -> None:
        """Begin to write what is in the buffer, and go on with the other one."""
        self._writing.result()
        self._writing = self._behind.submit(self._write, memoryview(self._full)[:length])
        self._full, self._spare, self._filled = self._spare, self._full, 0

    def _write(self, raw: memoryview) -> None:
        while raw:
            try:
                raw = raw[os.write(self._file, raw) :]
            except OSError as error:
                if error.errno != errno.EINVAL or not _past_the_cache(self._file):
                    raise
                # Some systems take the flag and refuse the write.
                _through_the_cache(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        try:
            if kind is None:
                if self._filled:
                    # Whole blocks; what is too much is cut off again.
                    self._turn(-(-self._filled // BLOCK) * BLOCK)
                self._writing.result()
                os.ftruncate(self._file, self._size)
                os.fsync(self._file)
        finally:
            self._behind.shutdown()
            os.close(self._file)


def _past_the_cache(file: int) -> bool:
    import fcntl

    return bool(_DIRECT) and bool(fcntl.fcntl(file, fcntl.F_GETFL) & _DIRECT)


def _through_the_cache(file: int) -> None:
    import fcntl

    fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) & ~_DIRECT)
