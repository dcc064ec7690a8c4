"""Weights & Biases. WANDB_MODE, WANDB_PROJECT and the rest of its variables are respected; its files lie in the run's folder under wandb/.

With WANDB_MODE=offline nothing is sent, and `wandb sync` sends it later. What is logged is what the run logged: no console output, no code, no git
state, no list of packages, no machine statistics, no error reports. The run's id is kept, so a resumed run goes on in the same place;
a step that was logged before it was killed is not logged twice, because W&B takes each step once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from tempering.logs.base import PROJECT


class WandB:
    """Logs to a W&B project, "tempering" unless WANDB_PROJECT names another."""

    package: ClassVar[str] = "wandb"
    install: ClassVar[str] = "wandb"
    mend: ClassVar[str] = "log in with `wandb login`, or set WANDB_MODE=offline and send the run later with `wandb sync`"

    def __init__(self) -> None:
        self._run: Any = None

    def open(self, folder: Path, config: Mapping[str, Any], kept: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Tracker.open`."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        wandb: Any = import_module(self.package)
        settings = wandb.Settings(
            console="off",
            save_code=False,
            disable_code=True,
            disable_git=True,
            x_save_requirements=False,
            x_disable_stats=True,
            x_disable_machine_info=True,
        )
        self._run = wandb.init(
            project=kept.get("project") or os.environ.get("WANDB_PROJECT") or PROJECT,
            entity=kept.get("entity") or None,
            id=kept.get("id"),
            name=folder.name,
            dir=str(folder),
            config=dict(config),
            resume="allow",
            settings=settings,
        )
        return {"id": self._run.id, "project": self._run.project, "entity": self._run.entity}

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.metrics`."""
        self._run.log(dict(values), step=step, commit=True)

    def ledger(self, step: int, values: Mapping[str, float], text: str) -> None:
        """See `Tracker.ledger`."""
        self._run.summary.update(dict(values))
        self._run.notes = text

    def close(self, state: str) -> None:
        """See `Tracker.close`."""
        self._run.finish(exit_code=0 if state == "done" else 1)
