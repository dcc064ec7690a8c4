"""What every recipe shares besides its method: a run folder, loading, rows, measuring before and after, and the end: ledger, gates, report, model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Report:
    """What a recipe returns: where the run lies and what it came to."""

    folder: Path
    ledger: Any
    failed_gates: tuple[str, ...] = ()


class Experiment:
    pass
