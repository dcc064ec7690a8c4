"""Files written past the page cache hold the bytes that were put, on systems that allow it and on those that do not."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from tempering.merging import sink
from tempering.merging.sink import BLOCK, BUFFER, Sink


def put(path: Path, content: bytes, piece: int) -> None:
    with Sink(path) as out:
        for at in range(0, len(content), piece):
            out.put(memoryview(content)[at : at + piece])


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BUFFER, BUFFER + 1, 2 * BUFFER - 1, 3 * BUFFER + 17])
@pytest.mark.parametrize("piece", [1 << 20, BUFFER - 3, 5 * BUFFER])
def test_a_file_holds_what_was_put_whatever_its_size(tmp_path: Path, size: int, piece: int) -> None:
    content = random.Random(size).randbytes(size)
    (tmp_path / "x").write_bytes(b"longer than before" * 10)
    put(tmp_path / "x", content, piece)
    assert (tmp_path / "x").read_bytes() == content


def test_a_system_without_such_files_gets_ordinary_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuses(path: Path, flags: int, *mode: int) -> int:
        if flags & 0o40000:
            raise OSError(errno.EINVAL, "no")
        return real(path, flags, *mode)

    monkeypatch.setattr(sink, "_DIRECT", 0o40000)
    monkeypatch.setattr(os, "open", refuses)
    put(tmp_path / "x", b"abc" * BUFFER, 1 << 20)
    assert (tmp_path / "x").read_bytes() == b"abc" * BUFFER


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="this system has no files past the page cache")
def test_a_system_that_takes_the_flag_and_refuses_the_write_gets_ordinary_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, refused = os.write, list[int]()

    def refuses(file: int, raw: memoryview) -> int:
        if sink._past_the_cache(file):
            refused.append(len(raw))
            raise OSError(errno.EINVAL, "no")
        return real(file, raw)

    monkeypatch.setattr(os, "write", refuses)
    monkeypatch.setattr(os, "open", lambda path, flags, *mode, real=os.open: real(path, flags & ~os.O_DIRECT, *mode))
    put(tmp_path / "y", b"y" * 10, 10)
    assert not refused
    monkeypatch.undo()
    monkeypatch.setattr(os, "write", refuses)
    put(tmp_path / "x", b"abc" * BUFFER, 1 << 20)
    assert (tmp_path / "x").read_bytes() == b"abc" * BUFFER
    # Once, and not at all on a file system that has no such files.
    assert refused in ([BUFFER], [])


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, raw: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        put(tmp_path / "x", b"x", 1)
    with pytest.raises(OSError, match="No space left"):
        put(tmp_path / "x", b"x" * (3 * BUFFER), BUFFER)
