"""Trackio: a local database (`trackio show` opens it). It leaves the machine only where TRACKIO_SPACE_ID or TRACKIO_SERVER_URL says so.

Its automatic logging of the machine is off: a run's record holds what the run logged. A killed run that is resumed logs the steps since its
checkpoint once more, with the same values.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from tempering.logs.base import PROJECT


class Trackio:
    """Logs to a Trackio project, "tempering" unless TRACKIO_PROJECT names another."""

    package: ClassVar[str] = "trackio"
    install: ClassVar[str] = "trackio"
    mend: ClassVar[str] = "look whether TRACKIO_DIR can be written to, or unset TRACKIO_SPACE_ID and TRACKIO_SERVER_URL to log locally"

    def __init__(self) -> None:
        self._run: Any = None

    def open(self, folder: Path, config: Mapping[str, Any], kept: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Tracker.open`."""
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        trackio: Any = import_module(self.package)
        project = kept.get("project") or os.environ.get("TRACKIO_PROJECT") or PROJECT
        name = kept.get("name") or folder.name
        resume = "allow" if kept else "never"
        # It greets on standard output, which is for results.
        with contextlib.redirect_stdout(sys.stderr):
            self._run = trackio.init(project, name=name, config=dict(config), resume=resume, embed=False, auto_log_gpu=False, auto_log_cpu=False)
        return {"project": project, "name": self._run.name}

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.metrics`."""
        self._run.log(dict(values), step=step)

    def ledger(self, step: int, values: Mapping[str, float], text: str) -> None:
        """See `Tracker.ledger`."""
        trackio: Any = import_module(self.package)
        self._run.log({**values, "ledger": trackio.Markdown(text)}, step=step)

    def close(self, state: str) -> None:
        """See `Tracker.close`."""
        trackio: Any = import_module(self.package)
        with contextlib.redirect_stdout(sys.stderr):
            trackio.finish()
