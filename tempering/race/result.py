"""What a race came to: a lane for each method, with intervals, and every other method compared with the first.

With two seeds or more every interval is a t interval over the paired seeds: it speaks of other seeds (and, where each seed has data of its own, of
other data). With one seed it is over the test items, and speaks of other items for this very run. The page says which.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tempering.config import plain_values
from tempering.errors import UserError
from tempering.race.course import Done, scores_of
from tempering.race.plan import Plan
from tempering.stats import Interval, holm, mcnemar, mean_interval, paired_share_interval, paired_t

OWN = ("data", "test", "loss", "seed", "budget", "shape", "limit")
"""Arguments that a race sets for each run."""


@dataclass(frozen=True)
class Finish:
    """One seed of one method."""

    seed: int
    gain: float
    keep: float | None
    tokens: float
    seconds: float
    folder: str
    gold: float | None = None
    """Mean gold reward of what the model itself writes, where the data is a world that has one."""


@dataclass(frozen=True)
class Lane:
    """One method."""

    method: str
    rate: float
    tried: tuple[tuple[float, float], ...]
    """(learning rate, gain on the validation rows), in the order of rates."""
    finishes: tuple[Finish, ...]
    gain: Interval
    keep: Interval | None
    gold: Interval | None
    against: Interval | None
    """Gain minus the first method's, paired; None for the first."""
    p: float | None = None
    p_adjusted: float | None = None
    """Holm, over the comparisons with the first."""

    @property
    def edge(self) -> str:
        """ "lowest" or "highest" where the chosen rate is at an end of those tried, so that a better one may lie outside; else ""."""
        rates = [rate for rate, _ in self.tried]
        if len(rates) < 2 or min(rates) < self.rate < max(rates):
            return ""
        return "lowest" if self.rate == min(rates) else "highest"


@dataclass(frozen=True)
class Race:
    """The whole result, as race.json has it."""

    plan: dict[str, Any]
    family: str
    model: str
    steps: int
    gain_on: str
    over: str
    """What the intervals are over: "seeds" or "items"."""
    own_data: bool
    """Each seed had data of its own."""
    lanes: tuple[Lane, ...]
    quick: bool
    seconds: float
    version: int = 1

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, indent=1, allow_nan=False) + "\n"

    @property
    def share(self) -> bool:
        """The gain is a share of items."""
        return not self.margin and self.gain_on != "held_loss"

    @property
    def margin(self) -> bool:
        """The gain is in nats per token."""
        return self.plan["gain"] == "margin"

    @property
    def uneven(self) -> bool:
        """The methods saw numbers of tokens that differ by more than one percent."""
        tokens = [f.tokens for lane in self.lanes for f in lane.finishes]
        return max(tokens) > 1.01 * min(tokens)


def finish(done: Done, gold: float | None = None) -> Finish:
    """A leg's numbers."""
    ledger = done.ledger
    keep = None if ledger.keep is None else ledger.keep.point
    cost = ledger.cost
    return Finish(done.leg.seed, done.gain.point, keep, cost.get("tokens", 0.0), cost.get("seconds", 0.0), str(done.folder), gold)


def result(
    plan: Plan, family: str, steps: int, done: Sequence[Done], *, golds: dict[Path, float] | None = None, quick: bool = False, seconds: float = 0.0
) -> Race:
    """The race that these legs were."""
    final = {(d.leg.method, d.leg.seed): d for d in done if not d.leg.tuning}
    several = len(plan.seeds) > 1
    golds = golds or {}
    lanes = []
    for method in plan.methods:
        legs = [final[method, seed] for seed in plan.seeds]
        finishes = tuple(finish(d, golds.get(d.folder)) for d in legs)
        gains, keeps = [f.gain for f in finishes], [f.keep for f in finishes if f.keep is not None]
        gold = [f.gold for f in finishes if f.gold is not None]
        first = [final[plan.methods[0], seed] for seed in plan.seeds]
        against, p = (None, None) if method == plan.methods[0] else _against(first, legs, plan.gain == "margin")
        tried = tuple(sorted((d.leg.rate, d.gain.point) for d in done if d.leg.tuning and d.leg.method == method))
        lanes.append(
            Lane(
                method=method,
                rate=legs[0].leg.rate,
                tried=tried,
                finishes=finishes,
                gain=mean_interval(gains, method="t") if several else legs[0].gain,
                keep=(_share(mean_interval(keeps, method="t")) if several else legs[0].ledger.keep) if keeps else None,
                gold=mean_interval(gold, method="t") if gold else None,
                against=against,
                p=p,
            )
        )
    compared = [lane.p for lane in lanes if lane.p is not None]
    adjusted = iter(holm(compared))
    lanes = [lane if lane.p is None else replace(lane, p_adjusted=next(adjusted)) for lane in lanes]
    shared = plain_values({k: v for k, v in plan.values.items() if k not in OWN})
    told = {**asdict(replace(plan, values={})), "values": shared}
    return Race(
        plan=told,
        family=family,
        model=str(plan.values["model"]),
        steps=steps,
        gain_on=next(iter(final.values())).ledger.gain_on + (" margin" if plan.gain == "margin" else ""),
        over="seeds" if several else "items",
        own_data=plan.data.startswith("world:"),
        lanes=tuple(lanes),
        quick=quick,
        seconds=round(seconds, 1),
    )


def _share(found: Interval) -> Interval:
    """A t interval does not know that a share ends at 0 and 1."""
    if found.low is None or found.high is None:
        return found
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))


def _against(first: Sequence[Done], legs: Sequence[Done], margin: bool) -> tuple[Interval, float]:
    """(gain minus the first method's, p), paired by seed; by test item where there is one seed."""
    if len(legs) > 1:
        # Rounded, so that gains that differ alike differ alike in binary too: shares of items are often equal.
        differences = [round(b.gain.point - a.gain.point, 12) for a, b in zip(first, legs, strict=True)]
        return mean_interval(differences, method="t"), paired_t(differences)
    old, new = (scores_of(d.folder, "after", margin) for d in (first[0], legs[0]))
    names = list(old)
    if names != list(new):
        raise UserError(f"{legs[0].folder}: its test items are not those of {first[0].folder}; race again in a new folder")
    pairs = [(old[name], new[name]) for name in names]
    if all(score in (0.0, 1.0) for pair in pairs for score in pair):
        gained, lost = sum(a < b for a, b in pairs), sum(a > b for a, b in pairs)
        return paired_share_interval(gained, lost, len(pairs)), mcnemar(gained, lost)
    # The gain is a fall where lower is better.
    sign = -1.0 if legs[0].ledger.on("target")[0].higher_is_better is False else 1.0
    differences = [sign * (b - a) for a, b in pairs]
    return mean_interval(differences), paired_t(differences)
