"""`temper trade A B --tune TOKENS`: each method's learning rate and number of steps, found under a budget of training tokens.

Every method is trained at every rate on an equal share of the budget and looked at on the way (`looks`). Then each method is run once more as it was
at the look that the rule chooses, with the whole battery. The rule: of the looks at which a token of the retain rows is at least `floor` times as
likely as before, the one with the fewest secrets out under the strongest attack; among equals the one that keeps most, then the earlier; where none
keeps so much, the one that keeps most.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from pydantic import ValidationError

from tempering import choices
from tempering.config import Budget
from tempering.errors import UserError
from tempering.forgetting.looks import FILE, SAME, Look, Looks, read
from tempering.report.scatter import Axis, Mark, scatter

EVERY = 5
"""Steps between two looks where the values name no number."""


@dataclass(frozen=True)
class Seen:
    """A look at a method at a rate."""

    method: str
    rate: float
    look: Look

    @property
    def name(self) -> str:
        return f"{self.method} {self.rate:g}, step {self.look.step}"

    @property
    def said(self) -> str:
        return f"{self.name}: {100 * self.look.out:.1f}% out under “{self.look.attack}”, a retain token {100 * self.look.kept:.1f}% as likely"


def search(
    recipe: Callable[..., Any],
    values: Mapping[str, Any],
    ways: Mapping[str, Any],
    rates: Sequence[float],
    tokens: int,
    folder: Path,
    say: Callable[[str], None],
) -> list[Seen]:
    """All looks of all trainings, the start of each left out; runs that are done are read back.

    Args:
        ways: method by name.
        tokens: of all trainings together; each has an equal share.
    """
    from tempering.execution import leg
    from tempering.forgetting.trade import key

    share = tokens // (len(ways) * len(rates))
    looks = Looks(look_every=values["looks"].look_every or EVERY, look_tokens=share)
    # What is measured before and after is left to the runs that are shown.
    light = {**values, "looks": looks, "attacks": "none", "budget": Budget(keep="none", max_test=values["budget"].max_test)}
    found: list[Seen] = []
    first: Path | None = None
    for method, way in ways.items():
        for rate in rates:
            arguments = at(light, way, rate)
            place = folder / "search" / f"{method}-{rate:g}-{key(arguments)}"
            measured_before(first, place, SAME)
            first = first or place
            leg(recipe, arguments, place, "temper trade")
            if not (place / FILE).exists():
                raise UserError(
                    f"--tune: {method} at {rate:g} ended before its first look at step {looks.look_every}; set look_every lower or steps higher"
                )
            seen = [Seen(method, rate, look) for look in read(place / FILE)[1:]]
            say(f"  {method} at {rate:g}: {len(seen)} looks, {seen[-1].look.tokens:,} tokens; in the end {seen[-1].said.partition(': ')[2]}")
            found += seen
    return found


def measured_before(first: Path | None, place: Path, names: Sequence[str]) -> None:
    """What the first run measured of a start and an oracle that it shares with a run that has not begun: it lies in that one's folder too."""
    if first is not None and not place.exists():
        place.mkdir(parents=True)
        for name in names:
            if (first / name).exists():
                shutil.copyfile(first / name, place / name)


def way_of(method: str, retain_loss: str | None) -> Any:
    """A method by name, with this retain term where it takes any (None: its own).

    Raises:
        UserError: there is no such retain term.
    """
    made = choices.choice(method)
    if retain_loss is None or "retain_loss" not in made.model_fields:
        return made()
    try:
        return made(**{"retain_loss": retain_loss})
    except ValidationError:
        raise UserError(f"--retain-loss: expected none, nll or kl, got {retain_loss!r}") from None


def at(values: Mapping[str, Any], way: Any, rate: float) -> dict[str, Any]:
    """A run's values with this method at this rate."""
    return {**values, "method": way, "optimizer": values["optimizer"].model_copy(update={"lr": rate})}


def stopped(values: Mapping[str, Any], way: Any, seen: Seen) -> dict[str, Any]:
    """The values of a run of the method that ends, with the same schedule, at the step of a look."""
    return {**at(values, way, seen.rate), "looks": Looks(look_every=seen.look.step, look_tokens=seen.look.tokens)}


def chosen(found: Sequence[Seen], floor: float) -> Seen:
    """By the rule at the top of this file.

    Args:
        found: the looks of one method.
    """
    keeping = [seen for seen in found if seen.look.kept >= floor]
    if not keeping:
        return max(found, key=lambda seen: (seen.look.kept, -seen.look.out, -seen.look.step))
    return min(keeping, key=lambda seen: (seen.look.out, -seen.look.kept, seen.look.step))


def front(found: Sequence[Seen]) -> list[Seen]:
    """The looks that no other beats at both ends, from most kept to least out."""
    best, out = list[Seen](), float("inf")
    for seen in sorted(found, key=lambda seen: (-seen.look.kept, seen.look.out, seen.look.tokens)):
        if seen.look.out < out:
            best, out = [*best, seen], seen.look.out
    return best


def picture(found: Sequence[Seen], picks: Sequence[Seen], *, oracle: bool, alone: bool = False) -> Markup:
    """All looks as dots, those chosen by name, the front as a line; the oracle, where there is one, as a mark of its own."""
    place = lambda seen: (1 - seen.look.out, seen.look.kept)  # noqa: E731
    marks = [Mark(s.name if s in picks else "", (1 - s.look.out, None, None), (s.look.kept, None, None), s.said) for s in found]
    if oracle:
        marks.append(Mark("oracle", (1.0, None, None), (1.0, None, None), "oracle: what it gives away is no leak; taken for 100% kept", True))
    write = lambda v: f"{100 * v:.4g}%"  # noqa: E731
    label = "Likelihood kept against secrets that stay in, over steps and rates. " + "; ".join(s.said for s in picks)
    axes = (
        Axis("secrets that stay in under the strongest attack that only asks", write, 1.0),
        Axis("a retain token is as likely as before", write, 1.0),
    )
    return scatter(marks, *axes, label, line=[place(s) for s in front(found)], alone=alone)


def rule(floor: float, tokens: int) -> str:
    """What a reader must know of the choice."""
    return (
        f"Rate and step of each method were chosen on {tokens:,} tokens of training in all: of the looks at which a retain token is at least "
        f"{100 * floor:g}% as likely as before, the one with the fewest secrets out under the strongest attack that only asks (16 of the secrets "
        "shown here), then the one that keeps most; where none keeps so much, the one that keeps most."
    )


def plain(found: Sequence[Seen], picks: Sequence[Seen]) -> list[dict[str, Any]]:
    """As JSON can hold them."""
    return [{"method": s.method, "rate": s.rate, **asdict(s.look), "chosen": s in picks} for s in found]
