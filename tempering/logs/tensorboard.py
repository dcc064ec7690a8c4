"""TensorBoard: event files in the run's folder under tensorboard/, so that `tensorboard --logdir runs` shows every run. Nothing leaves the machine.

Numbers are written as doubles, so what is read back is what metrics.jsonl holds. A resumed run writes a further file that begins with the step it
goes on from; TensorBoard then drops what an earlier, killed process wrote at or after it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar


class TensorBoard:
    """Writes event files with PyTorch's writer."""

    package: ClassVar[str] = "tensorboard"
    install: ClassVar[str] = "tensorboard"
    mend: ClassVar[str] = "look whether the run's folder can be written to"

    def __init__(self) -> None:
        self._folder = Path()
        self._config: Mapping[str, Any] = {}
        self._resumed = False
        self._writer: Any = None

    def open(self, folder: Path, config: Mapping[str, Any], kept: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Tracker.open`."""
        import torch.utils.tensorboard  # noqa: F401  (a broken installation shows here, not after an hour)

        self._folder, self._config, self._resumed = folder / "tensorboard", config, bool(kept)
        self._folder.mkdir(exist_ok=True)
        return {"folder": self._folder.name}

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.metrics`."""
        writer = self._at(step)
        for name, value in values.items():
            writer.add_scalar(name, value, step, new_style=True, double_precision=True)

    def ledger(self, step: int, values: Mapping[str, float], text: str) -> None:
        """See `Tracker.ledger`."""
        self.metrics(step, values)
        self._writer.add_text("ledger", text, step)

    def close(self, state: str) -> None:
        """See `Tracker.close`."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _at(self, step: int) -> Any:
        """The writer, made at the first step it is needed for: only then is it known from where a resumed run goes on."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=step if self._resumed else None, flush_secs=10)
            settings = json.dumps(dict(self._config), indent=2, ensure_ascii=False, default=str)
            self._writer.add_text("config", "\n".join(f"    {line}" for line in settings.splitlines()), step)
        return self._writer
