"""Logging to trackers, only where it is asked for: `temper run sft --log tensorboard`, `--log wandb,mlflow`.

A run's own record, metrics.jsonl, is written first and does not depend on any of this. A tracker that cannot be opened ends the run before it trains;
one that fails later is named once and left out, and the run goes on. Which trackers a run has, and where it is found in them, stands in trackers.json
in its folder: a resumed run goes on in the same places.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.errors import Interrupted, UserError
from tempering.home import write_atomic
from tempering.index import closest
from tempering.logs.base import Tracker
from tempering.logs.mlflow import MLflow
from tempering.logs.tensorboard import TensorBoard
from tempering.logs.trackio import Trackio
from tempering.logs.wandb import WandB

if TYPE_CHECKING:
    from tempering.ledger_types import Ledger

TRACKERS: Mapping[str, type[Tracker]] = {"tensorboard": TensorBoard, "trackio": Trackio, "wandb": WandB, "mlflow": MLflow}
FILE = "trackers.json"


def chosen(given: str | Sequence[str]) -> tuple[str, ...]:
    """Trackers by name from what was typed: names, each perhaps several with commas between. In the order given, each once.

    Raises:
        UserError: a name is unknown, or its library is not installed.
    """
    texts = [given] if isinstance(given, str) else list(given)
    names = tuple(dict.fromkeys(name.strip() for text in texts for name in str(text).split(",") if name.strip()))
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"--log {name}: expected one of {', '.join(TRACKERS)}{closest(name, TRACKERS)}")
        tracker = TRACKERS[name]
        spec = find_spec(tracker.package)
        # A folder of that name in the working folder (W&B makes one) is found too, but holds no code.
        if spec is None or spec.origin is None:
            raise UserError(f"--log {name}: the package {tracker.package} is not installed; install it with: pip install {tracker.install}")
    return names


def first_process() -> bool:
    """Whether this process speaks for the run, where a launcher such as torchrun started several."""
    return os.environ.get("RANK", "0") == "0"


class Logs:
    """The trackers of one run; without names it does nothing.

    Args:
        names: as `chosen` gives them; () on a resumed run means those it had.
        folder: the run's folder, which holds config.json.
        resumed: whether the run goes on from an earlier process.
    """

    def __init__(self, names: Sequence[str], folder: Path, *, resumed: bool, say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say
        self._kept: dict[str, Any] = _read(folder / FILE) if resumed else {}
        self.names = (tuple(names) or chosen(list(self._kept))) if first_process() else ()
        self._open: dict[str, Tracker] = {}
        self._opened = False
        self._step = 0

    def open(self) -> None:
        """Open every tracker; cheap after the first call.

        Raises:
            UserError: one of them cannot be opened.
        """
        if self._opened or not self.names:
            return
        self._opened = True
        config = json.loads((self.folder / "config.json").read_text())
        for name in self.names:
            tracker = TRACKERS[name]()
            try:
                self._kept[name] = dict(tracker.open(self.folder, config, self._kept.get(name, {})))
            except Interrupted:
                raise
            except Exception as error:
                raise UserError(f"--log {name}: cannot be opened ({_said(error)}); {tracker.mend}, or leave --log {name} out") from None
            self._open[name] = tracker
        write_atomic(self.folder / FILE, json.dumps(self._kept, indent=1))

    def metrics(self, values: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl: its finite numbers, at its step."""
        self._step = int(values["step"])
        numbers = {name: float(value) for name, value in values.items() if name != "step" and isinstance(value, int | float)}
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        self._each(lambda tracker: tracker.metrics(self._step, finite))

    def ledger(self, ledger: Ledger) -> None:
        """What the run came to."""
        from tempering.logs.summary import numbers, text

        step = self._step or _last_step(self.folder / "metrics.jsonl")
        self._each(lambda tracker: tracker.ledger(step, numbers(ledger), text(ledger)))

    def close(self, state: str) -> None:
        """Close every tracker; further calls do nothing."""
        self._each(lambda tracker: tracker.close(state))
        self._open.clear()

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                act(tracker)
            except Interrupted:
                raise
            except Exception as error:
                del self._open[name]
                self.say(f"--log {name} failed and is left out from here on ({_said(error)}); the run goes on, metrics.jsonl is complete")


def _said(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _read(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text())
        return {name: kept for name, kept in found.items() if name in TRACKERS and isinstance(kept, dict)} if isinstance(found, dict) else {}
    return {}


def _last_step(path: Path) -> int:
    with suppress(OSError, ValueError, KeyError, IndexError):
        return int(json.loads(path.read_text().splitlines()[-1])["step"])
    return 0
