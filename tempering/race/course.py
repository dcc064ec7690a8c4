"""The runs of a race, one after the other: each is one run of the family's recipe, and differs from the others in loss, learning rate and seed only.

A run's folder is named by a hash of everything it depends on, code included. So a race that was stopped goes on where it was, one with another
method added runs that method only, and a run of older code is never taken for one of this.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempering import choices, index
from tempering.config import Budget, plain_values
from tempering.display import Display
from tempering.errors import UserError
from tempering.race.plan import MOST_HELD, TUNING_SEED, Files, Plan
from tempering.start import Start
from tempering.stats import Interval, mean_interval

Say = Callable[[str], None]


@dataclass(frozen=True)
class Leg:
    """One run of a race."""

    method: str
    rate: float
    seed: int
    tuning: bool

    @property
    def told(self) -> str:
        """The leg in words."""
        return f"{self.method} lr {self.rate:g}, " + ("validation" if self.tuning else f"seed {self.seed}")


@dataclass(frozen=True)
class Done:
    """What a leg came to."""

    leg: Leg
    folder: Path
    ledger: Any
    reused: bool
    margin: Interval | None = None
    """Gain in the margin of held pairs, where a race is for that."""

    @property
    def gain(self) -> Interval:
        """What this race is for.

        Raises:
            UserError: the run measured no such thing.
        """
        found = self.margin or self.ledger.gain
        if found is None:
            raise UserError(f"{self.folder}: the run measured no gain on a target; a race needs one")
        return found


def scores_of(folder: Path, name: str, margin: bool) -> dict[str, float]:
    """Item -> its score on the target, "before" or "after".

    Args:
        margin: by how much an answer per token is likelier than the other, instead of whether it is.

    Raises:
        UserError: there are no pairs to have a margin.
    """
    scores = json.loads((folder / f"{name}.scores.json").read_text(encoding="utf-8"))
    targets = [probe for probe in scores["probes"] if probe["side"] == "target"]
    chosen = [probe for probe in targets if probe["kind"] == "binary"] or targets
    try:
        return {
            f"{probe['probe']}/{item['id']}": float(item["extra"]["margin_mean"] if margin else item["score"])
            for probe in chosen
            for item in probe["items"]
        }
    except KeyError:
        raise UserError("--gain margin: these methods are not measured by pairs, so there is no margin; leave --gain out") from None


class Course:
    """A plan, its data and its recipe, made ready: how many steps the budget is, and what each leg's arguments are.

    Raises:
        UserError: the budget is less than one step, or the data has no usable row.
    """

    def __init__(self, plan: Plan, family: str, files: Mapping[int, Files], folder: Path) -> None:
        self.plan, self.family, self.files, self.folder = plan, family, files, folder
        self.recipe = index.load(index.recipe_of_family(family))
        self.start = Start()
        self.tokens_per_step = self._tokens_per_step()
        self.steps = int(plan.tokens // self.tokens_per_step)
        if self.steps < 1:
            raise UserError(
                f"--budget {plan.tokens:,} tokens: one step of {self._batch} rows is about {self.tokens_per_step:,.0f} tokens; give more tokens, "
                "or smaller steps with --set training.batch_size=4"
            )

    @property
    def _batch(self) -> int:
        return self.plan.values["training"].batch_size

    def _tokens_per_step(self) -> float:
        """Mean tokens of a training row as the recipe renders it, times the rows of a step."""
        from tempering import data, models

        make: Any = {"pairs": data.pair_row, "tokens": data.sft_row, "unpaired": data.labelled_row, "ranked": data.ranked_row}[self.family]
        values = self.plan.values
        tokenizer = models.load_tokenizer(values["model"], say=lambda _: None)
        if values.get("template") is not None:
            tokenizer = data.with_template(tokenizer, values["template"])
        made = [make(r, tokenizer, max_length=values["max_length"]) for r in data.read(self.files[TUNING_SEED].train, say=lambda _: None)]
        sizes = [sum(len(segment.ids) for segments in row.values() for segment in segments) for row in made if row is not None]
        if not sizes:
            raise UserError(f"--data {self.plan.data}: no row is usable; look with `temper check {self.plan.data} --model {values['model']}`")
        return self._batch * sum(sizes) / len(sizes)

    def arguments(self, leg: Leg) -> dict[str, Any]:
        """The recipe's arguments for one leg."""
        v, files = self.plan.values, self.files[leg.seed]
        # One pass of the start model over the rows serves all losses and rates.
        shared = {"reference": "cached"} if v.get("reference") == "auto" else {}
        return {
            **v,
            **shared,
            "data": files.train,
            "test": files.valid if leg.tuning else files.test,
            "loss": choices.choice(leg.method)(),
            "optimizer": v["optimizer"].model_copy(update={"lr": leg.rate}),
            "training": v["training"].model_copy(update={"steps": self.steps, "save_every": 0}),
            "budget": Budget(max_test=MOST_HELD, own_score=False).model_copy(update={"keep": "none" if leg.tuning else self.plan.keep}),
            "seed": leg.seed,
        }

    def place(self, leg: Leg) -> Path:
        """The leg's folder."""
        from tempering.stages import content_key, content_of

        arguments = self.arguments(leg)
        plain = plain_values(arguments)
        for name in ("data", "test", "model"):
            # Content, not place: a race's folder may be moved.
            plain[name] = content_of(plain[name]) or plain[name]
        key = content_key({"race": plain, "recipe": self.recipe.__name__})
        kind = "tune" if leg.tuning else f"seed{leg.seed}"
        return self.folder / "runs" / f"{leg.method}-{kind}-{leg.rate:g}-{key[:10]}"

    def run(self, leg: Leg) -> Done:
        """One leg, or what an earlier run of the same content came to."""
        from tempering.execution import leg as run_leg
        from tempering.ledger_types import Ledger

        place = self.place(leg)
        command = f"temper race ({leg.method}, lr {leg.rate:g}, seed {leg.seed})"
        reused = run_leg(self.recipe, self.arguments(leg), place, command, Phases(leg.told), self.start)
        margin = None
        if self.plan.gain == "margin":
            old, new = (scores_of(place, name, margin=True) for name in ("before", "after"))
            margin = mean_interval([new[item] - old[item] for item in old])
        return Done(leg, place, Ledger.read(place / "ledger.json"), reused, margin)


class Phases(Display):
    """The progress of one run among many, in a terminal: which it is and where it is, and none of its sentences."""

    def __init__(self, run: str) -> None:
        super().__init__()
        self.run = run

    def say(self, sentence: str) -> None:
        """Nothing: a race has a line for each run."""

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Display]:
        """As every display shows it, with the run's name."""
        with super().phase(f"{self.run}: {name}", total) as phase:
            yield phase


class Clock:
    """How long the legs that are left will take: by the mean of those that were run, of their own kind where there are any."""

    def __init__(self, tuning: int, final: int) -> None:
        self.left = {True: tuning, False: final}
        self.spent: dict[bool, list[float]] = {True: [], False: []}

    def note(self, tuning: bool, seconds: float | None) -> None:
        """A leg is over; `seconds` None where it was reused."""
        self.left[tuning] -= 1
        if seconds is not None:
            self.spent[tuning].append(seconds)

    def estimate(self) -> float | None:
        """Seconds; None before the first run."""
        every = [s for kind in self.spent.values() for s in kind]
        if not every:
            return None
        return sum(count * _mean(self.spent[kind] or every) for kind, count in self.left.items())


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def run(course: Course, say: Say) -> Iterator[Done]:
    """All legs: first those that choose each method's rate, then every seed at the rates chosen."""
    plan = course.plan
    tuning = [Leg(method, rate, TUNING_SEED, True) for method in plan.methods for rate in plan.rates] if len(plan.rates) > 1 else []
    final = len(plan.methods) * len(plan.seeds)
    total, clock = len(tuning) + final, Clock(len(tuning), final)
    done: list[Done] = []

    def one(leg: Leg) -> Done:
        began = time.monotonic()
        found = course.run(leg)
        clock.note(leg.tuning, None if found.reused else time.monotonic() - began)
        done.append(found)
        left = clock.estimate()
        how = "kept from before" if found.reused else f"{time.monotonic() - began:.0f} s"
        say(f"  [{len(done)}/{total}] {leg.told}: gain {found.gain.point:+.3f} ({how})" + (f", about {_time(left)} left" if left else ""))
        return found

    for leg in tuning:
        yield one(leg)
    rates = chosen(done, plan) if tuning else dict.fromkeys(plan.methods, min(plan.rates))
    for seed in plan.seeds:
        for method in plan.methods:
            yield one(Leg(method, rates[method], seed, False))


def chosen(done: list[Done], plan: Plan) -> dict[str, float]:
    """Method -> the rate with the largest gain on the validation rows; of equal ones the smallest."""
    gains = {(d.leg.method, d.leg.rate): d.gain.point for d in done if d.leg.tuning}
    return {m: max(sorted(plan.rates), key=lambda rate: gains[m, rate]) for m in plan.methods}


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
