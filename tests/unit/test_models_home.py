"""The store and atomic folders: whole or absent, and one sentence when the disk says no."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tempering import home
from tempering.errors import UserError
from tempering.home import atomic_folder, sha256_file, store_dir, write_atomic


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "256k", options: str = "") -> Iterator[Path]:
    """A tmpfs of its own; the test skips where mounting is not allowed."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}{options}", "tmpfs", str(folder)], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TEMPERING_HOME", str(tmp_path / "here"))
    assert home.home() == tmp_path / "here"
    assert not (tmp_path / "here").exists()
    assert store_dir("gguf") == tmp_path / "here" / "gguf" and (tmp_path / "here" / "gguf").is_dir()
    monkeypatch.delenv("TEMPERING_HOME")
    assert home.home() == Path.home() / ".cache" / "tempering"


def test_a_store_that_cannot_be_made_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TEMPERING_HOME", str(tmp_path / "file" / "store"))
    with pytest.raises(UserError, match=r"cannot make the store folder .*: a part of that path is a file.*; set TEMPERING_HOME"):
        store_dir("gguf")


def test_atomic_folder_appears_whole_with_ordinary_modes(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a" / "model") as temporary:
        assert temporary.parent == tmp_path / "a" and not (tmp_path / "a" / "model").exists()
        (temporary / "sub").mkdir()
        (temporary / "sub" / "x").write_text("1")
        (temporary / "sub" / "x").chmod(0o600)
    mask = os.umask(0)
    os.umask(mask)
    assert names(tmp_path / "a") == ["model"]
    assert (tmp_path / "a" / "model" / "sub" / "x").read_text() == "1"
    assert (tmp_path / "a" / "model").stat().st_mode & 0o777 == 0o777 & ~mask
    assert (tmp_path / "a" / "model" / "sub" / "x").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, UserError])
def test_atomic_folder_leaves_nothing_after_a_failure(tmp_path: Path, failure: type[BaseException]) -> None:
    with pytest.raises(failure), atomic_folder(tmp_path / "model") as temporary:
        (temporary / "x").write_text("1")
        raise failure("no")
    assert names(tmp_path) == []


def test_what_happens_to_an_existing_folder(tmp_path: Path) -> None:
    out = tmp_path / "model"

    def put(text: str, **kwargs: str) -> None:
        with atomic_folder(out, **kwargs) as temporary:  # type: ignore[arg-type]
            (temporary / text).write_text(text)

    out.mkdir()
    put("first")  # an empty folder may be taken
    assert names(out) == ["first"]
    with pytest.raises(UserError, match="is there already"):
        put("second")
    put("third", existing="keep")
    assert names(out) == ["first"]
    put("fourth", existing="replace")
    assert names(out) == ["fourth"]
    assert names(tmp_path) == ["model"]


def test_replacing_keeps_the_old_folder_when_the_new_one_fails(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "model", existing="replace") as temporary:
        (temporary / "new").write_text("")
        raise RuntimeError
    assert names(tmp_path / "model") == ["old"] and names(tmp_path) == ["model"]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; free some space"),
        (OSError(errno.EROFS, "Read-only file system"), "the file system is read-only; choose a folder that you can write to"),
        (PermissionError(errno.EACCES, "Permission denied"), "you may not write there"),
        (Exception("I/O error: No space left on device (os error 28)"), "the disk is full"),
    ],
)
def test_refusals_of_the_system_become_sentences(tmp_path: Path, error: Exception, sentence: str) -> None:
    with pytest.raises(UserError) as caught, atomic_folder(tmp_path / "model"):
        raise error
    assert str(caught.value).startswith(f"cannot write the folder {tmp_path / 'model'}: {sentence}")
    assert names(tmp_path) == []


def test_other_failures_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "model"):
        raise ZeroDivisionError


def test_a_really_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(UserError, match="the disk is full"), atomic_folder(disk / "model") as temporary:
            (temporary / "x").write_bytes(bytes(1 << 20))
        assert names(disk) == []


def test_a_really_read_only_disk(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk", options=",ro") as disk,
        pytest.raises(UserError, match="the file system is read-only"),
        atomic_folder(disk / "model"),
    ):
        pass


def test_write_atomic(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a.json", "ä")
    write_atomic(tmp_path / "a.json", "b")
    assert (tmp_path / "a.json").read_text() == "b" and names(tmp_path) == ["a.json"]
    with pytest.raises(UserError, match=r"cannot write .*nowhere.*"):
        write_atomic(tmp_path / "nowhere" / "a.json", "b")


def test_sha256_is_read_once_and_again_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPERING_HOME", str(tmp_path / "store"))
    file = tmp_path / "x"
    reads: list[Path] = []
    digest = home._digest
    monkeypatch.setattr(home, "_digest", lambda path: reads.append(path) or digest(path))
    file.write_bytes(b"one")
    os.utime(file, ns=(1, 1))
    assert sha256_file(file) == sha256_file(file) == hashlib.sha256(b"one").hexdigest()
    assert len(reads) == 1
    file.write_bytes(b"two")
    os.utime(file, ns=(2, 2))
    assert sha256_file(file) == hashlib.sha256(b"two").hexdigest() and len(reads) == 2
    for broken in ("", "[]", '{"sha256": 1}'):
        note = next((tmp_path / "store" / "sha256").iterdir())
        note.write_text(broken)
        assert sha256_file(file) == hashlib.sha256(b"two").hexdigest()
    assert len(reads) == 5


def test_sha256_without_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setenv("TEMPERING_HOME", str(tmp_path / "file" / "store"))
    assert sha256_file(tmp_path / "file") == hashlib.sha256(b"x").hexdigest()
