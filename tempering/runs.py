"""Run folders: one run, one folder, whose state can always be read.

config.json (resolved values), lock.json (versions, hashes, git), status.json (state, process, command), metrics.jsonl, checkpoints/, model/,
before.scores.json, after.scores.json, samples.json, ledger.json, report.html. Small files are written beside their place and renamed.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tempering.errors import UserError
from tempering.home import disk_errors, write_atomic

PACKAGES = ("tempering", "torch", "transformers", "peft", "datasets", "tokenizers", "safetensors", "numpy")


class RunFolder:
    """One run's folder.

    Args:
        path: where; made on creation unless it is resumed.
        resume: the folder must exist and hold config.json.
        follow: another process of the same run keeps it; this one checks and writes nothing.
    """

    def __init__(self, path: Path, *, resume: bool = False, follow: bool = False) -> None:
        self.path, self.fresh, self.follow = path, not resume, follow
        if follow:
            return
        if resume:
            status = self.read("status.json")
            pid = status.get("pid")
            if status.get("state") == "running" and status.get("host") == socket.gethostname() and isinstance(pid, int) and alive(pid):
                raise UserError(f"run {path} is still running (process {pid}); wait for it, or stop it first")
            return
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"--out {path} exists and is not empty; choose a new folder, or go on with --resume {path}")
        self._made = _first_missing(path)
        try:
            with disk_errors(f"cannot make the run's folder {path}"):
                path.mkdir(parents=True, exist_ok=True)
                (path / ".write-test").write_bytes(b"x")
                (path / ".write-test").unlink()
        except UserError:
            self.discard()
            raise

    def write(self, name: str, value: Any) -> None:
        """Write a JSON file atomically."""
        if self.follow:
            return
        write_atomic(self.path / name, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=str))

    def read(self, name: str) -> dict[str, Any]:
        """Read a JSON file; {} where there is none or it is not JSON."""
        try:
            return json.loads((self.path / name).read_text())
        except (OSError, json.JSONDecodeError):
            return {}

    def status(self, state: str, message: str = "", **more: Any) -> None:
        """Note what state the run is in: running, done, failed, interrupted."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        old = self.read("status.json")
        value = {**old, "state": state, "message": message, "pid": os.getpid(), "host": socket.gethostname(), **more}
        value.setdefault("started", now)
        value["ended"] = None if state == "running" else now
        self.write("status.json", value)

    def discard(self) -> bool:
        """Remove a folder that this run made and that holds nothing worth resuming; whether it is gone."""
        if self.follow:
            return True
        if not self.fresh or (self.path / "checkpoints").exists():
            return False
        shutil.rmtree(self._made, ignore_errors=True)
        return True


def lock(extra: Mapping[str, Any]) -> dict[str, Any]:
    """What a run depended on besides its values: versions, machine, git."""
    import torch

    versions = {name: version for name in PACKAGES if (version := installed(name))}
    machine = {"platform": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return {"versions": versions, "machine": machine, "git": _git(), **extra}


def installed(name: str) -> str | None:
    """A distribution's version; None where it is not there."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git() -> str | None:
    """Commit of the working folder's checkout, with "+" where it has changes; None outside one."""
    try:
        commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if dirty else "")


def alive(pid: int) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _first_missing(path: Path) -> Path:
    """The topmost folder that making `path` will create."""
    missing = path
    while not missing.parent.exists():
        missing = missing.parent
    return missing
