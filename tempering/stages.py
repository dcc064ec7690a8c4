"""Memoised steps of a recipe: the same code on the same inputs is not run twice, and a killed run goes on in the stage where it died.

A stage is a folder. While it is worked on it is called `NAME.partial` (and keeps its checkpoints there); when it is done a `stage.json` with the
content key goes in and the folder is renamed. Rounds (iterative DPO, self-training, sequential requests) are plain Python over stages.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tempering.home import sha256_file


@cache
def code_digest() -> str:
    """SHA-256 over the package's own source files: a changed line runs stages again."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def content_key(inputs: Mapping[str, Any], code: Callable[..., Any] | None = None) -> str:
    """A key of JSON-able inputs and of the code: the package, and the file in which `code` stands if that is elsewhere."""
    source = ""
    if code is not None and not code.__module__.startswith("tempering."):
        file = inspect.getsourcefile(code)
        source = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    return hashlib.sha256(json.dumps([dict(inputs), code_digest(), source], sort_keys=True, default=str).encode()).hexdigest()


def content_of(value: str) -> str:
    """A digest of what a value points at: a file's content, a folder's files; "" for anything else."""
    path = Path(value)
    # As a path nothing is the working folder, and a setting that is empty names none.
    if not value or len(value) > 4096 or "\n" in value or not path.exists():
        return ""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return content_key({str(p.relative_to(path)) if p != path else "": sha256_file(p) for p in files})


def stage(folder: Path, name: str, inputs: Mapping[str, Any], work: Callable[[Path], None], say: Callable[[str], None] = print) -> Path:
    """Run `work(path)` unless a finished stage of the same content stands in `folder/name`; returns `folder/name`.

    Args:
        folder: of the run.
        inputs: JSON-able; everything the stage depends on besides code (hashes of data and of earlier stages).
        work: writes its results into the path that it is given, where an interrupted attempt of the same content may have left checkpoints.
    """
    done, partial = folder / name, folder / f"{name}.partial"
    key = content_key(inputs, work)
    if done.is_dir() and _key(done) == key:
        say(f"stage {name}: already done, not run again")
        return done
    if partial.is_dir() and _key(partial) != key:
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    (partial / "stage.json").write_text(json.dumps({"key": key, "inputs": dict(inputs)}, default=str))
    work(partial)
    if done.is_dir():
        shutil.rmtree(done)
    partial.rename(done)
    return done


def _key(path: Path) -> str:
    try:
        return json.loads((path / "stage.json").read_text())["key"]
    except (OSError, KeyError, json.JSONDecodeError):
        return ""
