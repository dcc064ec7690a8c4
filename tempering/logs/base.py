"""What a tracker is: one small protocol, written once for each service in a file of its own.

The loop's record of a run is metrics.jsonl; a tracker shows the same numbers somewhere else. It is opened before training, given every line of
metrics.jsonl as it is written, the ledger when the run is measured, and closed with the state in which the run ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

PROJECT = "tempering"
"""What runs are filed under where the service's own variables name nothing else."""


class Tracker(Protocol):
    """One service that runs are logged to."""

    package: ClassVar[str]
    """The library's import name."""
    install: ClassVar[str]
    """What pip is given to install it."""
    mend: ClassVar[str]
    """What to try when it cannot be opened, as the end of a sentence."""

    def open(self, folder: Path, config: Mapping[str, Any], kept: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begin the run, or go on with it. Any exception says that it cannot be used.

        Args:
            folder: the run's folder; its name is the run's name.
            config: {"recipe": name, "values": resolved settings}.
            kept: what an earlier `open` of this run returned; {} for a new run.

        Returns:
            JSON-able notes by which a resumed run is found again.
        """
        ...

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """The numbers of one optimizer step (from 1); every one is finite."""
        ...

    def ledger(self, step: int, values: Mapping[str, float], text: str) -> None:
        """What the run came to: numbers by name, and the whole as Markdown."""
        ...

    def close(self, state: str) -> None:
        """Write out what is waiting. `state` is "done", "failed" or "interrupted"."""
        ...


def flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Settings as (dotted name, text), for services that take no nested values."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{above}{name}.")
        else:
            yield above + name, str(value)
