"""Where things are kept between runs, and how a folder is written so that it is either whole or absent.

The store is one folder (`TEMPERING_HOME`, default `~/.cache/tempering`) with a sub-folder per kind. Nothing in it is precious: everything can be
made again from its inputs. Folders that matter (converted models, saved models, exports) are written through `atomic_folder`: into a hidden sibling
first, flushed to the disk, then renamed, so that neither a full disk nor a killed process leaves something that looks finished.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tempering.errors import UserError

ENV = "TEMPERING_HOME"

_REASONS = {
    errno.ENOSPC: ("the disk is full", "free some space or choose a folder on another disk"),
    errno.EDQUOT: ("your disk quota is used up", "free some space or choose a folder on another disk"),
    errno.EFBIG: ("the file system or a limit does not allow a file that large", "choose a folder on another disk or raise the limit"),
    errno.EROFS: ("the file system is read-only", "choose a folder that you can write to"),
    errno.EACCES: ("you may not write there", "choose a folder that you can write to, or change its permissions"),
    errno.EPERM: ("you may not write there", "choose a folder that you can write to, or change its permissions"),
    errno.ENOTDIR: ("a part of that path is a file, not a folder", "choose another path"),
    errno.EEXIST: ("something of that name is there already", "choose another path or remove it"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter path"),
}


def home() -> Path:
    """The store's root: `TEMPERING_HOME`, or `~/.cache/tempering`. Not created here."""
    return Path(os.environ.get(ENV) or "~/.cache/tempering").expanduser().absolute()


def store_dir(kind: str) -> Path:
    """The store's folder for one kind of thing ("gguf", "sha256", "runs"), created if needed.

    Raises UserError if it cannot be created.
    """
    folder = home() / kind
    with disk_errors(f"cannot make the store folder {folder}", mend=f"set {ENV} to a folder that you can write to"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def disk_errors(sentence: str, *, mend: str | None = None) -> Iterator[None]:
    """Turns an operating system's refusal to write into one sentence: `sentence`: reason; mend.

    safetensors and tokenizers wrap the same refusals in errors of their own without an errno; those are known by the number in their text.
    """
    try:
        yield
    except OSError as error:
        reason, cure = _REASONS.get(error.errno or 0, (error.strerror or str(error), "check the path and the disk"))
        raise UserError(f"{sentence}: {reason}; {mend or cure}.") from error
    except Exception as error:
        number = next((n for n in _REASONS if f"(os error {n})" in str(error)), None)
        if number is None or isinstance(error, UserError):
            raise
        reason, cure = _REASONS[number]
        raise UserError(f"{sentence}: {reason}; {mend or cure}.") from error


@contextlib.contextmanager
def atomic_folder(path: str | Path, *, existing: Literal["refuse", "replace", "keep"] = "refuse") -> Iterator[Path]:
    """Yields an empty temporary folder beside `path`; on a clean exit it is flushed and renamed to `path`, on any failure it is removed.

    `existing` says what happens when `path` is there: "refuse" raises UserError before anything is written (an empty folder may be taken),
    "replace" puts the new one in its place, "keep" throws the new one away at the end (right where the name is a hash of the content and another
    process was faster).
    """
    path = Path(path).expanduser().absolute()
    if existing == "refuse" and path.exists() and not _is_empty_folder(path):
        raise UserError(f"{path} is there already; choose a new folder or remove this one.")
    with disk_errors(f"cannot write the folder {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent))
        try:
            yield temporary
            _flush(temporary)
            _open_up(temporary)
            _rename(temporary, path, existing)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def kept_folder(path: str | Path) -> Iterator[Path]:
    """Yields the folder `.NAME.partial` beside `path`, with what an earlier, broken attempt left in it; on a clean exit it is flushed and renamed to
    `path`, on any failure it stays for the next attempt.

    Raises UserError where `path` is there already and not an empty folder.
    """
    path = Path(path).expanduser().absolute()
    if path.exists() and not _is_empty_folder(path):
        raise UserError(f"{path} is there already; choose a new folder or remove this one.")
    with disk_errors(f"cannot write the folder {path}"):
        partial = path.parent / f".{path.name[:100]}.partial"
        partial.mkdir(parents=True, exist_ok=True)
        yield partial
        _flush(partial)
        _open_up(partial)
        _rename(partial, path, "refuse")


def write_atomic(path: str | Path, text: str) -> None:
    """Writes a text file whole or not at all. Raises UserError where it cannot."""
    path = Path(path)
    with disk_errors(f"cannot write {path}"):
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)


def sha256_file(path: str | Path, *, remember: bool = True) -> str:
    """The hex sha256 of a file's content. Remembered in the store by (path, size, modification time), so a large file is read once.

    `remember=False` is for files that are about to move.
    """
    path = Path(path).expanduser().resolve()
    if not remember:
        return _digest(path)
    stat = path.stat()
    key = {"path": str(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    note = home() / "sha256" / (hashlib.sha256(str(path).encode()).hexdigest()[:32] + ".json")
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(note.read_text(encoding="utf-8"))
        if isinstance(known, dict) and {k: known.get(k) for k in key} == key and isinstance(known.get("sha256"), str):
            return known["sha256"]
    digest = _digest(path)
    # The note only saves time: where the store cannot be written, the answer is right all the same.
    with contextlib.suppress(OSError, UserError):
        note.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(note, json.dumps({**key, "sha256": digest}))
    return digest


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flush(folder: Path) -> None:
    for root, _, files in os.walk(folder):
        for name in [*files, "."]:
            handle = os.open(os.path.join(root, name), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _open_up(folder: Path) -> None:
    # mkdtemp gives 0700 and safetensors 0600; what is finished gets the modes that mkdir and open would have given it.
    mask = _umask()
    for root, _, files in os.walk(folder):
        os.chmod(root, 0o777 & ~mask)
        for name in files:
            path = os.path.join(root, name)
            os.chmod(path, os.stat(path).st_mode | (0o666 & ~mask))


def _rename(temporary: Path, path: Path, existing: str) -> None:
    try:
        os.rename(temporary, path)  # also takes the place of an empty folder
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or existing == "refuse":
            raise
        if existing == "keep":
            return
        old = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}.", suffix=".old", dir=path.parent))
        os.rename(path, old)
        try:
            os.rename(temporary, path)
        except OSError:
            os.rename(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
