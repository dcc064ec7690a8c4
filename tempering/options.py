"""Options of a run that are not its recipe's: where it goes, whether it goes on, who watches. None of them changes a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.display import Display
from tempering.profiling import Window

if TYPE_CHECKING:
    from tempering.experiment import Experiment
    from tempering.start import Start


@dataclass(frozen=True)
class Options:
    """Options of every run, whatever the recipe; the command line sets them."""

    out: Path | None = None
    resume: Path | None = None
    again: bool = False
    log: tuple[str, ...] = ()
    """Trackers by name (`logs.chosen`)."""
    profile: Window | None = None
    """Which steps to profile."""
    tensor: int = 1
    """How many processes of the run share each matrix, side by side."""
    command: str = ""
    display: Display = field(default_factory=Display)
    start: Start | None = None
    """What this run shares with others of its program that start from the same model."""
    rehearse: Callable[[str, Mapping[str, Any], Options], Experiment] | None = None
    """Opens the run instead, where it is only to be looked ahead at: (recipe's name, values, these options)."""


OPTIONS: ContextVar[Options] = ContextVar("tempering_options")
"""Those of the run that is being executed."""
