"""Stored replications, `replications/<name>.json`: what `temper replicate` found, with the code and settings it found it with.

The files are data: one that is broken, or lacks what a replication needs, is left out with a sentence that says why.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tempering import index
from tempering.errors import UserError

VERDICTS = ("replicated", "partly", "not replicated", "inconclusive")


@dataclass(frozen=True)
class Replication:
    """One claim of a paper, tried here."""

    name: str
    """The file's name."""
    method: str
    catalogue: tuple[str, ...]
    verdict: str
    """One of `VERDICTS`."""
    claim: str = ""
    title: str = ""
    baseline: str = ""
    metric: str = ""
    effect: float | None = None
    """Of the method over the baseline, in the metric's unit; positive is what the paper claims."""
    interval: tuple[float, float] | None = None
    seeds: int = 0
    seconds: float | None = None
    command: str = ""
    commit: str = ""
    whole: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The file as it stands, for `stale`."""


def folder() -> Path:
    """Where results are stored: beside the package in a checkout; in it where there is none beside."""
    places = (index.PACKAGE.parent / "replications", index.PACKAGE / "replications")
    return next((place for place in places if any(place.glob("*.json"))), places[0])


def stale(found: Replication) -> bool:
    """Whether the files it rests on, or the core's numerics, changed since; False where the file has no digest to compare with."""
    stored = found.whole.get("digest")
    if not isinstance(stored, str):
        return False
    from tempering.proof import digest

    try:
        return digest.combined(digest.digests(found.name)) != stored
    except (UserError, OSError):  # the claim itself is gone
        return True


def replications(place: Path | None = None) -> tuple[tuple[Replication, ...], tuple[str, ...]]:
    """The replications of a folder by name, and a sentence for each file that is none.

    Args:
        place: the folder; by default that of this package. One that is not there holds nothing.
    """
    good, bad = [], []
    for path in sorted((place or folder()).glob("*.json")):
        try:
            whole = json.loads(path.read_text(encoding="utf-8"))
            good.append(_read(path.stem, whole))
        except (OSError, ValueError, RecursionError) as error:
            bad.append(f"{path.name} is no replication: {' '.join(str(error).split())}")
    return tuple(good), tuple(bad)


def _read(name: str, whole: Any) -> Replication:
    if not isinstance(whole, dict):
        raise ValueError("it holds no JSON object")
    verdict = _text(whole.get("verdict")).replace("-", " ").replace("_", " ")
    if verdict not in VERDICTS:
        raise ValueError(f"its verdict is {whole.get('verdict')!r}, not one of {', '.join(VERDICTS)}")
    given = whole.get("catalogue")
    ids = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    seeds = whole.get("seeds")
    return Replication(
        name=name,
        method=_text(whole.get("method")) or name,
        catalogue=tuple(one for one in ids if isinstance(one, str)),
        verdict=verdict,
        effect=_number(whole.get("effect")),
        interval=_interval(whole.get("interval")),
        seeds=len(seeds) if isinstance(seeds, list) else int(_number(seeds) or 0),
        seconds=_number(whole.get("seconds")),
        whole=whole,
        **{key: _text(whole.get(key)) for key in ("claim", "title", "baseline", "metric", "command", "commit")},
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _interval(value: Any) -> tuple[float, float] | None:
    """[low, high], or {"low": ..., "high": ...}; None unless both are numbers in order."""
    if isinstance(value, dict):
        value = [value.get("low"), value.get("high")]
    low, high = (_number(end) for end in value) if isinstance(value, list) and len(value) == 2 else (None, None)
    return (low, high) if low is not None and high is not None and low <= high else None
