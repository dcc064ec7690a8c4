"""MLflow: wherever MLFLOW_TRACKING_URI points, by default MLflow's own local store. Its telemetry is switched off unless a variable says otherwise.

Batches are sent by MLflow's own queue, so training does not wait for a server; a failure shows at the next batch or at the end. A killed run that is
resumed logs the steps since its checkpoint once more, with the same values.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from tempering.logs.base import PROJECT, flat

STATUS = {"done": "FINISHED", "interrupted": "KILLED"}
PARAMS = 100
"""Parameters that a server takes in one request."""


class MLflow:
    """Logs to an MLflow experiment, "tempering" unless MLFLOW_EXPERIMENT_NAME names another."""

    package: ClassVar[str] = "mlflow"
    install: ClassVar[str] = "mlflow"
    mend: ClassVar[str] = "look whether MLFLOW_TRACKING_URI names a store or server that answers"

    def __init__(self) -> None:
        self._client: Any = None
        self._id = ""
        self._sent: list[Any] = []

    def open(self, folder: Path, config: Mapping[str, Any], kept: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Tracker.open`."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        mlflow: Any = import_module(self.package)
        entities: Any = import_module("mlflow.entities")
        self._client = mlflow.MlflowClient()
        if kept:
            self._id = self._client.get_run(kept["id"]).info.run_id
            self._client.set_terminated(self._id, "RUNNING")
            return kept
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found is not None else self._client.create_experiment(name)
        self._id = self._client.create_run(experiment, run_name=folder.name).info.run_id
        params = [entities.Param(allowed(key), value[:6000]) for key, value in flat(config)]
        for start in range(0, len(params), PARAMS):
            self._client.log_batch(self._id, params=params[start : start + PARAMS])
        return {"id": self._id}

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.metrics`."""
        entities: Any = import_module("mlflow.entities")
        self._wait(keep=8)
        now = int(time.time() * 1000)
        batch = [entities.Metric(allowed(name), value, now, step) for name, value in values.items()]
        self._sent.append(self._client.log_batch(self._id, metrics=batch, synchronous=False))

    def ledger(self, step: int, values: Mapping[str, float], text: str) -> None:
        """See `Tracker.ledger`."""
        self.metrics(step, values)
        self._wait()
        self._client.log_text(self._id, text, "ledger.md")

    def close(self, state: str) -> None:
        """See `Tracker.close`."""
        self._wait()
        self._client.set_terminated(self._id, STATUS.get(state, "FAILED"))

    def _wait(self, keep: int = 0) -> None:
        """Raise what went wrong with the oldest batches; all but the newest `keep` are waited for."""
        while len(self._sent) > keep:
            self._sent.pop(0).wait()


def allowed(name: str) -> str:
    """A name as MLflow takes it: letters, digits, and _ - . / : and space."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:250]
