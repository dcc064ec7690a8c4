"""Claims: what a paper says, in a small world, with the smallest effect that would count; and the rule that turns seeds into a verdict.

A claim is a file of `tempering/replications`: a docstring with the claim in words, `CLAIM = Claim(...)`, and `arm(seed, arm, scale)`, which runs one
arm ("baseline" or "method") and gives its score, or several numbers by name with the claim's metric among them. Both arms of a seed are paired: they
share what the seed decides (start, rows, order), so that their difference is the method's.

The rule stands here and in the claim's file, and both are committed before a result is: a threshold that is chosen after the numbers proves nothing.
No torch here: claims are listed without running them.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tempering.config import Value
from tempering.errors import UserError
from tempering.index import closest

FOLDER = Path(__file__).parent.parent / "replications"
MIN_SEEDS = 5
HEADROOM = (0.15, 0.85)
ARMS = ("baseline", "method")

Verdict = Literal["replicated", "partly", "not replicated", "inconclusive"]


@dataclass(frozen=True)
class Scale:
    """How much of a claim is run: all of it, or just enough to see that it works."""

    quick: bool = False

    def __call__(self, full: int, quick: int | None = None) -> int:
        """`full`, or in a quick run `quick` (default: an eighth, at least 2)."""
        return full if not self.quick else quick if quick is not None else max(2, full // 8)


@dataclass(frozen=True)
class Claim:
    """What is claimed and what would count as seeing it.

    Raises:
        UserError: a smallest effect that is not positive, or a range without extent.
    """

    method: str
    """The file under methods/, or the recipe, whose claim it is."""
    catalogue: tuple[str, ...]
    """Papers in the catalogue ("S082"); empty where the paper is not in it."""
    title: str
    claim: str
    """One sentence: what the paper says, as it can be seen here."""
    baseline: str
    """What the method is compared with, in words."""
    metric: str
    """What `arm` returns; the key of it where it returns several numbers."""
    smallest_effect: float
    """The smallest effect of interest, in units of the metric, positive for "better by"."""
    higher_is_better: bool = True
    range: tuple[float, float] = (0.0, 1.0)
    """The metric's values between which the baseline's place is judged: a baseline outside 15% to 85% of it has no headroom. A loss runs from 0 to
    that of a model which knows nothing."""

    def __post_init__(self) -> None:
        if not self.smallest_effect > 0:
            raise UserError(f"claim {self.title!r}: smallest_effect is {self.smallest_effect}; say how large an effect would count, above 0")
        if not self.range[0] < self.range[1]:
            raise UserError(f"claim {self.title!r}: range is {self.range}; give the lowest and the highest value of the metric")

    def rule(self) -> str:
        """The rule of the verdict in one sentence, with this claim's numbers."""
        low, high = (self.range[0] + share * (self.range[1] - self.range[0]) for share in HEADROOM)
        better = "method - baseline" if self.higher_is_better else "baseline - method"
        return (
            f"effect = mean of {better} in {self.metric} over at least {MIN_SEEDS} paired seeds, with its 95% t interval; replicated: the interval "
            f"lies above {self.smallest_effect:g}; not replicated: it lies below {self.smallest_effect:g}; partly: it lies above 0 and holds "
            f"{self.smallest_effect:g}; inconclusive: all else, and a mean baseline outside {low:.4g} to {high:.4g}"
        )


class Seed(Value):
    """What both arms of a seed gave."""

    seed: int
    baseline: float
    method: float
    others: dict[str, float] = Field(default_factory=dict)
    """Further numbers, as "baseline.length"; they decide nothing."""


class Result(Value):
    """A stored result: `replications/<name>.json`."""

    method: str
    catalogue: tuple[str, ...]
    title: str
    claim: str
    rule: str
    baseline: str
    metric: str
    seeds: tuple[Seed, ...]
    effect: float
    interval: tuple[float, float]
    verdict: Verdict
    reason: str
    """Why, in one sentence."""
    seconds: float = Field(ge=0)
    """Of the processor, for all arms together."""
    command: str
    commit: str
    """The commit in which the claim and the rule stood when it was run."""
    versions: dict[str, str]
    digest: str
    files: dict[str, str]
    """Path -> the first digits of that file's digest: which of them changed."""
    core_numerics: int


@dataclass(frozen=True)
class Judgement:
    """A verdict with the numbers it rests on."""

    effect: float
    interval: tuple[float, float]
    verdict: Verdict
    reason: str


def judge(claim: Claim, seeds: Sequence[Seed]) -> Judgement:
    """The verdict over paired seeds, by the rule that `Claim.rule` states. Positive effects are in the method's favour.

    Raises:
        UserError: fewer than two seeds.
    """
    from tempering.stats import seed_interval

    sign = 1.0 if claim.higher_is_better else -1.0
    found = seed_interval([sign * seed.baseline for seed in seeds], [sign * seed.method for seed in seeds])
    low, high = float(found.low or 0.0), float(found.high or 0.0)
    mean = sum(seed.baseline for seed in seeds) / len(seeds)
    place = (mean - claim.range[0]) / (claim.range[1] - claim.range[0])
    smallest = claim.smallest_effect
    verdict: Verdict = "inconclusive"
    if len(seeds) < MIN_SEEDS:
        reason = f"{len(seeds)} seeds are fewer than {MIN_SEEDS}"
    elif not HEADROOM[0] <= place <= HEADROOM[1]:
        reason = f"the baseline has no headroom: {mean:.4g} lies at {place:.0%} of the range {claim.range[0]:g} to {claim.range[1]:g}"
    elif low > smallest:
        verdict, reason = "replicated", f"the interval lies above the smallest effect of {smallest:g}"
    elif high < smallest:
        verdict, reason = "not replicated", f"the interval lies below the smallest effect of {smallest:g}"
    elif low > 0:
        verdict, reason = "partly", f"the interval lies above 0 but may fall short of the smallest effect of {smallest:g}"
    else:
        reason = f"the interval holds 0 and the smallest effect of {smallest:g}"
    return Judgement(found.point, (low, high), verdict, reason)


# ------------------------------------------------------------------------------------------------------------------------- finding and reading them


def names() -> tuple[str, ...]:
    """Every claim there is, by walking the folder."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_")))


def path_of(name: str) -> Path:
    """The file of a claim, as a user types its name.

    Raises:
        UserError: no claim has this name.
    """
    wanted = name.lower().replace("-", "_")
    if wanted not in names():
        raise UserError(f"there is no claim {name!r}{closest(name, names()) or '; there are: ' + ', '.join(names())}")
    return FOLDER / f"{wanted}.py"


def read(path: Path) -> Claim:
    """The claim of a file by its syntax tree; nothing of it is run, so that claims may import what they like.

    Raises:
        UserError: the file has no `CLAIM = Claim(...)` of plain values.
    """
    mend = "; write CLAIM = Claim(method=..., ...) with plain values (strings, numbers, tuples)"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    call = next((node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CLAIM"), None)
    if not isinstance(call, ast.Call) or call.args:
        raise UserError(f"{path}: there is no claim in it{mend}")
    try:
        return Claim(**{str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords})
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}{mend}, namely {', '.join(field.name for field in fields(Claim))}") from None


def arm_of(name: str) -> Callable[[int, str, Scale], float | Mapping[str, float]]:
    """The function that runs an arm of a claim: `arm(seed, arm, scale)`.

    Raises:
        UserError: the file defines none.
    """
    path = path_of(name)
    found: Any = getattr(importlib.import_module(f"tempering.replications.{path.stem}"), "arm", None)
    if not callable(found):
        raise UserError(f"{path}: it defines no function arm(seed, arm, scale)")
    return found  # type: ignore[return-value]
