"""The audit log of forgetting: one line of JSON for each request, appended, each with the hash of the line before it.

A line says what was to go (hashes and counts, no words), by what method and settings, what attacks got before and after, what was kept, and which
weights came out. Changing, leaving out or reordering a line breaks the chain, which `temper audit FILE` finds; cutting lines off the end is found
against a hash that was noted elsewhere (`--head`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tempering.errors import UserError
from tempering.home import disk_errors

FIRST = "0" * 64
"""What the first line has for a line before it."""


def _hash(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()


def append(path: Path, record: Mapping[str, Any]) -> str:
    """Add a record at the end; returns the hash of its line.

    Raises:
        UserError: the log's chain is broken already, or it cannot be written.
    """
    lines = verify(path) if path.exists() else []
    previous = _hash(lines[-1]) if lines else FIRST
    whole = {"request": len(lines) + 1, "when": datetime.now(UTC).isoformat(timespec="seconds"), **record, "previous": previous}
    line = json.dumps(whole, ensure_ascii=True, sort_keys=True, default=str)
    with disk_errors(f"cannot write the audit log {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
    return _hash(line)


def verify(path: Path, head: str | None = None) -> list[str]:
    """The lines of a log whose chain holds.

    Args:
        head: hash of the last line, where it was noted.

    Raises:
        UserError: naming the first line that is not what its successor saw, or the end that is missing.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"audit log {path} cannot be read ({reason}); give the file that a run with --audit wrote") from None
    previous = FIRST
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            seen, request = record["previous"], record["request"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}:{number}: this is no record of an audit log; restore the file from a copy") from None
        if seen != previous or request != number:
            raise UserError(f"{path}:{number}: the chain is broken: the lines up to here are not those this one was written after; restore a copy")
        previous = _hash(line)
    if head is not None and previous != head:
        raise UserError(f"{path}: the last line's hash is {previous}, not {head}; lines were cut off or added at the end, restore a copy")
    return lines


def summary(scores: Any) -> dict[str, float]:
    """Probe -> mean score."""
    return {probe.probe: sum(item.score for item in probe.items) / len(probe.items) for probe in scores.probes}
