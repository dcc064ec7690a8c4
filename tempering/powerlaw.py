"""How something grows with a number that was swept: means, what each level adds to the one before, and a power law with a limit.

    y = limit + scale * x^exponent

"Does RLHF Scale?" (Hou et al. 2024, arXiv 2412.06000, S040) asks such questions of reinforcement: what more samples to a prompt, prompts, a larger
model, or steps add. `temper sweep RECIPE --rollouts.samples 2,4,8,16 --seed 0,1,2 --scaling rollouts.samples` answers them from the runs' ledgers.
The law is fitted by least squares; for a given exponent limit and scale are a linear problem (variable projection: Golub and Pereyra 1973,
doi 10.1137/0710036), so only the exponent is searched for. It is written with (x^c - 1) / c, which is the logarithm at c = 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tempering.errors import UserError
from tempering.stats import Interval, mean_interval

if TYPE_CHECKING:
    import numpy as np
    from markupsafe import Markup

CATALOGUE = ("S040",)
STEEPEST = 8.0
"""Exponents are looked for between this and its negative."""
LEAST = 3
"""Levels that a law needs: it has as many numbers."""


@dataclass(frozen=True)
class Law:
    """y = limit + scale * x^exponent; with an exponent of 0 y = limit + scale * log x."""

    limit: float
    scale: float
    exponent: float
    rest: float
    """Root of the mean square of what it leaves."""

    def __call__(self, x: float) -> float:
        import math

        return self.limit + self.scale * (x**self.exponent if self.exponent else math.log(x))


@dataclass(frozen=True)
class Level:
    """What was found at one value."""

    x: float
    mean: Interval
    added: Interval | None
    """To the level before, paired where the same settings were run at both; None at the first."""


@dataclass(frozen=True)
class Growth:
    """All levels with the law, and between which exponents it moves when any one of the repetitions is left out."""

    levels: tuple[Level, ...]
    law: Law
    without_one: tuple[float, float] | None

    @property
    def diminishing(self) -> bool:
        """Whether every level adds less than the one before it did."""
        added = [level.added.point for level in self.levels if level.added]
        return all(later < earlier for earlier, later in pairwise(added))

    def json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "diminishing": self.diminishing}


def fitted(x: Sequence[float], y: Sequence[float]) -> Law:
    """The law that leaves the least squares.

    Raises:
        UserError: fewer than three different values, one that is not above 0, or a number that is not finite.
    """
    import numpy as np
    from scipy.optimize import minimize_scalar

    x_N, y_N = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x_N.shape != y_N.shape or len(np.unique(x_N)) < LEAST:
        raise UserError(f"a power law needs values at {LEAST} or more different places, got {len(np.unique(x_N))}")
    if not (np.isfinite(x_N).all() and np.isfinite(y_N).all() and (x_N > 0).all()):
        raise UserError("a power law needs finite numbers, at places above 0")
    # Around 1, so that large powers stay numbers.
    middle = float(np.exp(np.log(x_N).mean()))
    log_N = np.log(x_N / middle)

    def basis(c: float) -> np.ndarray:
        return np.stack([np.ones_like(log_N), np.expm1(c * log_N) / c if abs(c) > 1e-9 else log_N], -1)

    def left(c: float) -> float:
        a_N2 = basis(c)
        return float(np.square(y_N - a_N2 @ np.linalg.lstsq(a_N2, y_N)[0]).sum())

    grid = np.linspace(-STEEPEST, STEEPEST, 321)
    best = int(np.argmin([left(c) for c in grid]))
    ends = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    least: Any = minimize_scalar(left, bounds=ends, method="bounded", options={"xatol": 1e-12})
    exponent = float(least.x)
    (at, slope), rest = np.linalg.lstsq(basis(exponent), y_N)[0].tolist(), float(np.sqrt(left(exponent) / len(y_N)))
    if abs(exponent) <= 1e-9:
        return Law(at - slope * float(np.log(middle)), slope, 0.0, rest)
    return Law(at - slope / exponent, slope / exponent * middle**-exponent, exponent, rest)


def growth(found: Mapping[str, Mapping[float, float]]) -> Growth:
    """Levels and law.

    Args:
        found: for each repetition (a seed, other settings), the value at each place.

    Raises:
        UserError: as for `fitted`.
    """
    places = sorted({x for one in found.values() for x in one})
    levels, before = list[Level](), None
    for x in places:
        mean = mean_interval([one[x] for one in found.values() if x in one])
        pairs = [one[x] - one[before] for one in found.values() if before is not None and x in one and before in one]
        levels.append(Level(x, mean, mean_interval(pairs) if pairs else None))
        before = x

    def law(some: Sequence[Mapping[float, float]]) -> Law:
        return fitted(*zip(*[pair for one in some for pair in one.items()], strict=True))

    every = list(found.values())
    others = [law([*every[:i], *every[i + 1 :]]).exponent for i in range(len(every))] if len(every) > 1 and _alike(every) else []
    return Growth(tuple(levels), law(every), (min(others), max(others)) if others else None)


def _alike(some: Sequence[Mapping[float, float]]) -> bool:
    """Whether all repetitions have the same places."""
    return len({frozenset(one) for one in some}) == 1


HEADINGS = ("", "mean", "[95%]", "added", "[95%]")


def cells(level: Level) -> tuple[str, ...]:
    """A level's line of the table under `HEADINGS`."""
    added = level.added
    return f"{level.x:g}", f"{level.mean.point:+.4g}", _span(level.mean), f"{added.point:+.4g}" if added else "", _span(added)


def _span(interval: Interval | None) -> str:
    return f"[{interval.low:+.3g}, {interval.high:+.3g}]" if interval and interval.low is not None and interval.high is not None else ""


def sentence(found: Growth, name: str, of: str = "gain") -> str:
    """The law and what it rests on, in words."""
    law = found.law
    shape = f"{law.scale:.4g} * {name}^{law.exponent:.4g}" if law.exponent else f"{law.scale:.4g} * log {name}"
    said = f"{of} = {law.limit:.4g} + {shape}, leaving {law.rest:.2g} (root mean square)"
    if found.without_one:
        said += f"; exponent {found.without_one[0]:.3g} to {found.without_one[1]:.3g} without any one repetition"
    if abs(law.exponent) > STEEPEST - 0.1:
        said += "; the exponent is at the end of what is looked for: these numbers are no power law"
    return said + f". Each level adds {'less than the one before' if found.diminishing else 'not always less than the one before'}."


def picture(found: Growth, name: str, of: str = "gain") -> Markup:
    """Means with their intervals, and the law, as a drawing of its own."""
    from tempering.report.scatter import Axis, Mark, scatter

    marks = [
        Mark(
            f"{level.x:g}",
            (level.x, None, None),
            (level.mean.point, level.mean.low, level.mean.high),
            f"{name} {level.x:g}: {of} {level.mean.point:+.4g}",
        )
        for level in found.levels
    ]
    low, high = found.levels[0].x, found.levels[-1].x
    curve = [(x, found.law(x)) for x in (low * (high / low) ** (i / 40) for i in range(41))]
    said = f"{of} by {name}. " + "; ".join(mark.said for mark in marks)
    return scatter(marks, Axis(name, lambda v: f"{v:.4g}"), Axis(of, lambda v: f"{v:.4g}"), said, whiskers=("y",), line=curve, alone=True)
