"""Metrics as curves: one list of (step, value) per name, with the values that are not finite kept as NaN so that a chart can leave a gap.

`metrics.jsonl` is JSON, and JSON has no NaN: a writer puts `null`, or the strings "NaN" and "Infinity". Both mean the same thing here, and neither is
quietly left out, because the step at which a loss stops being a number is the most important point of its curve.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

NOT_METRICS = frozenset({"step", "name", "phase", "time", "stage", "epoch"})
"""Keys of a row that place it rather than measure something."""

_WORDS = {"nan": math.nan, "inf": math.inf, "+inf": math.inf, "-inf": -math.inf, "infinity": math.inf, "-infinity": -math.inf}


@dataclass(frozen=True)
class Curve:
    """One metric over the steps. `values` holds NaN where the run wrote something that is not a finite number."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def finite(self) -> Curve:
        """The same curve without the points that are not numbers."""
        kept = [(step, value) for step, value in zip(self.steps, self.values, strict=True) if math.isfinite(value)]
        return Curve(self.name, tuple(step for step, _ in kept), tuple(value for _, value in kept))

    @property
    def window(self) -> int:
        """Points that one robust level is taken over: a fifth of the curve, at least three."""
        return max(3, len(self) // 5)

    @property
    def start(self) -> float:
        """Median of the first window."""
        return median(self.values[: self.window])

    @property
    def end(self) -> float:
        """Median of the last window."""
        return median(self.values[-self.window :])

    @property
    def wobble(self) -> float:
        """How far `start` and `end` may differ by chance: four standard errors of the difference of two window medians.

        The noise of a point is estimated from successive differences, so that a trend is not mistaken for noise. 1.2533 turns a mean absolute
        deviation into a standard deviation and, a second time, is the efficiency loss of a median; the mean is taken because on 40 points a median
        absolute deviation is at times half of what it should be.
        """
        jumps = [b - a for a, b in zip(self.values, self.values[1:], strict=False)]
        if not jumps:
            return 0.0
        centre = median(jumps)
        noise = 1.2533 * fmean(abs(jump - centre) for jump in jumps) / math.sqrt(2)
        return 4 * 1.2533 * noise * math.sqrt(2 / self.window)

    def rolling(self) -> list[float]:
        """Medians of every window, in order."""
        return [median(self.values[i : i + self.window]) for i in range(len(self) - self.window + 1)]


def number(value: Any) -> float | None:
    """A metric's value as a float: NaN for `null` and the words JSON writers use for numbers it has not; None for what is no number at all."""
    if value is None:
        return math.nan
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    if isinstance(value, str):
        return _WORDS.get(value.strip().lower())
    return None


def say(value: float | None, digits: int = 3) -> str:
    """A number for people: significant digits (fewer where it has no more), thousands separated, powers of ten only where one would count zeros."""
    if value is None or not math.isfinite(value):
        return "n/a"
    if value == 0:
        return "0"
    size = abs(value)
    if size < 1e-3 or size >= 1e7:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}".replace("-", "\u2212")
    places = math.floor(math.log10(float(f"{size:.{digits - 1}e}")))
    text = f"{value:.{max(0, digits - 1 - places)}f}"
    if "." in text and float(text) == value:
        text = text.rstrip("0").rstrip(".")
    whole, _, rest = text.partition(".")
    return (f"{int(whole):,}" if size >= 1 else whole).replace("-", "\u2212") + (f".{rest}" if rest else "")


def curve(metrics: Sequence[Mapping[str, Any]], name: str) -> Curve:
    """The points of one metric, in the order written. A row without `step` is counted from its place in the file."""
    points: list[tuple[int, float]] = []
    for index, row in enumerate(metrics):
        if name not in row or (value := number(row[name])) is None:
            continue
        step = number(row.get("step", index))
        points.append((int(step) if step is not None and math.isfinite(step) else index, value if math.isfinite(value) else math.nan))
    return Curve(name, tuple(step for step, _ in points), tuple(value for _, value in points))


def names(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of all metrics, in the order they first appear."""
    seen: dict[str, None] = {}
    for row in metrics:
        for name, value in row.items():
            if name not in NOT_METRICS and number(value) is not None:
                seen.setdefault(name)
    return list(seen)


def read(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The rows of a `metrics.jsonl`, and the one-based numbers of the lines that are no JSON object (a killed process leaves half a line)."""
    rows: list[dict[str, Any]] = []
    bad: list[int] = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line_number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                bad.append(line_number)
                continue
            if isinstance(row, dict):
                rows.append(row)
            else:
                bad.append(line_number)
    return rows, bad
