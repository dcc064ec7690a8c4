"""A run folder as it is read for people: what is there, and a sentence for each thing that is missing or cannot be read.

A report is wanted most when a run went wrong, so nothing but the config is required: a killed process leaves half a line of metrics, a failed one
leaves no ledger. Each gap is kept as a sentence and shown in the place of the section; nothing is left out without a word.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tempering.errors import UserError
from tempering.forgetting import verdict
from tempering.forgetting.verdict import Verdict
from tempering.ledger_types import Ledger
from tempering.report import curves


@dataclass(frozen=True)
class Sample:
    """One prompt with what the model wrote before and after training."""

    prompt: str
    before: str
    after: str
    expected: str | None = None


@dataclass
class RunFolder:
    """Everything a report shows. `gaps` maps a section ("ledger", "metrics", ...) to the sentence that says why it is not, or not fully, there."""

    path: Path
    config: Mapping[str, Any]
    lock: Mapping[str, Any] = field(default_factory=dict)
    status: Mapping[str, Any] = field(default_factory=dict)
    ledger: Ledger | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    forgotten: Verdict | None = None
    """What attacks found after a forget run."""
    gaps: dict[str, str] = field(default_factory=dict)

    @property
    def command(self) -> str:
        """What was typed, from status.json; "" if nobody wrote it down."""
        value = self.status.get("command")
        if isinstance(value, list):
            return shlex.join(str(part) for part in value)
        return value.strip() if isinstance(value, str) else ""

    @property
    def message(self) -> str:
        """What status.json says beside the state, unless that is the ledger's sentence, which the page shows anyway."""
        value = self.status.get("message")
        return value if isinstance(value, str) and not (self.ledger and value == self.ledger.sentence()) else ""

    @property
    def seconds(self) -> float | None:
        """Wall-clock seconds from start to end, from status.json."""
        start, end = (_moment(self.status.get(key)) for key in ("started", "ended"))
        return None if start is None or end is None or end < start else end - start


def setting(config: Mapping[str, Any], name: str) -> Any:
    """A resolved value by name, whether the config holds it at its top or further down ("values", "training", ...); None if absent."""
    if name in config:
        return config[name]
    for value in config.values():
        if isinstance(value, Mapping) and (found := setting(value, name)) is not None:
            return found
    return None


def flatten(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A nested value as rows of (path, text); nothing for what is empty."""
    if isinstance(value, Mapping):
        return [row for key, inner in value.items() for row in flatten(inner, f"{prefix}.{key}" if prefix else str(key))]
    if value is None or value == "":
        return []
    return [(prefix or "value", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))]


def read(folder: Path) -> RunFolder:
    """Reads a run folder. Raises UserError if there is no folder or no readable config.json in it."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; expected a run folder (with config.json), as `temper runs` lists them.")
    gaps: dict[str, str] = {}
    config = _mapping(folder / "config.json", gaps, "config")
    if config is None:
        raise UserError(f"{folder / 'config.json'}: {gaps['config']} Expected a run folder as `temper run` writes it; `temper runs` lists them.")
    run = RunFolder(folder, config, gaps=gaps)
    run.lock = _mapping(folder / "lock.json", gaps, "lock") or {}
    run.status = _mapping(folder / "status.json", gaps, "status") or {}
    run.samples = _samples(folder / "samples.json", gaps)
    _ledger(run, folder / "ledger.json")
    _forgotten(run, folder / "forgetting.json")
    _metrics(run, folder / "metrics.jsonl")
    return run


def _json(path: Path, gaps: dict[str, str], section: str) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        gaps[section] = f"This run has no {path.name}."
    except OSError as error:
        gaps[section] = f"{path.name} could not be read ({error.strerror})."
    except (ValueError, RecursionError) as error:
        gaps[section] = f"{path.name} is not JSON ({error})."
    return None


def _mapping(path: Path, gaps: dict[str, str], section: str) -> Mapping[str, Any] | None:
    value = _json(path, gaps, section)
    if value is not None and not isinstance(value, dict):
        gaps[section] = f"{path.name} holds a {type(value).__name__} where an object was expected."
        return None
    return value


def _samples(path: Path, gaps: dict[str, str]) -> list[Sample]:
    rows = _json(path, gaps, "samples")
    if rows is None:
        return []
    if not isinstance(rows, list):
        gaps["samples"] = f"{path.name} holds a {type(rows).__name__} where a list was expected."
        return []
    found, bad = [], 0
    for row in rows:
        texts = [text for key in ("prompt", "before", "after") if isinstance(text := row.get(key), str)] if isinstance(row, dict) else []
        if len(texts) < 3:
            bad += 1
            continue
        expected = row.get("expected")
        found.append(Sample(*texts, expected=expected if isinstance(expected, str) else None))
    if bad:
        gaps["samples"] = f"{bad} of {len(rows)} entries of {path.name} are no sample (prompt, before and after as text) and are left out."
    return found


def _ledger(run: RunFolder, path: Path) -> None:
    if not path.exists():
        run.gaps["ledger"] = "This run has no ledger.json: it was not measured, or has not come that far."
        return
    try:
        run.ledger = Ledger.read(path)
    except UserError as error:
        run.gaps["ledger"] = f"The ledger could not be read: {error}"


def _forgotten(run: RunFolder, path: Path) -> None:
    """Only forget runs have a verdict: others miss nothing."""
    if path.exists():
        try:
            run.forgotten = verdict.read(path)
        except UserError as error:
            run.gaps["forgotten"] = f"What attacks found could not be read: {error}"


def _metrics(run: RunFolder, path: Path) -> None:
    try:
        run.metrics, bad = curves.read(path)
    except FileNotFoundError:
        run.gaps["metrics"] = "This run has no metrics.jsonl: no training step was written."
        return
    except OSError as error:
        run.gaps["metrics"] = f"metrics.jsonl could not be read ({error.strerror})."
        return
    if bad:
        lines = ", ".join(str(number) for number in bad[:5]) + (" …" if len(bad) > 5 else "")
        run.gaps["metrics"] = f"{len(bad)} of metrics.jsonl's lines cannot be read and are left out (line {lines})."
    elif not run.metrics:
        run.gaps["metrics"] = "metrics.jsonl is empty: no training step was written."


def _moment(value: Any) -> float | None:
    """Seconds of a time written as a number or in ISO 8601; None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else None
    except ValueError:
        return None
