"""What a run came to, for people: one HTML file, a model card, and the curve doctor's words.

The HTML side pulls in a template engine, so it is imported when asked for; `diagnose` is plain Python and always there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tempering.report.doctor import Finding, diagnose

__all__ = ["Finding", "diagnose", "model_card", "write"]


def write(folder: Path | str) -> Path:
    """Writes `report.html`, one self-contained page, into a run folder and returns its path.

    Args:
        folder: a run folder. `config.json` must be there; any of lock.json, metrics.jsonl, ledger.json, samples.json and status.json may be missing
            or unreadable, and the page then says so in its place.

    Raises:
        UserError: no run folder, no readable config.json, or the page cannot be written there.
    """
    from tempering.report.html import write_report

    return write_report(Path(folder))


def model_card(config: Mapping[str, Any], lock: Mapping[str, Any] | None = None, ledger: Any = None, *, command: str = "") -> str:
    """README.md of a saved model: YAML front matter that hubs read, the ledger in short, data fingerprint, command and versions.

    Args:
        config: the run's resolved values (config.json).
        lock: versions and hashes (lock.json), if any.
        ledger: a `tempering.ledger.Ledger`, or its JSON as a mapping, if the run was measured.
        command: what was typed to make it, if known.

    Raises:
        UserError: the mapping is no ledger.
    """
    from tempering.report.card import render_card

    return render_card(config, lock or {}, ledger, command)
