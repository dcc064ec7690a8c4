"""`temper trade A B C`: several ways of forgetting the same rows, each at several learning rates, and what each one costs.

Every run is one of `temper run forget` with the same data, steps and attacks; the start model and the oracle are measured once. For each method the
rate with the best trade stands in the table, and the trade is judged by its worst side: what the strongest attack gets out (beyond what the oracle
says too), and what was kept. Their harmonic mean is 1 where nothing comes out and everything is kept, and near 0 where either fails.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tempering.config import plain_values
from tempering.forgetting import tune
from tempering.ledger_types import Ledger
from tempering.report.scatter import STYLE, Axis, Ends, Mark, scatter
from tempering.stages import content_key, content_of

SAME = ("before.scores.json", "oracle.scores.json")


@dataclass(frozen=True)
class Deal:
    """One run: what came out, and what was kept."""

    method: str
    rate: float
    folder: str
    attack: str
    """The strongest."""
    leaked: Ends
    """Share of secrets that it got out."""
    beyond: float
    """Share that it got out and that the oracle does not say."""
    plain: float
    """Share that comes out when asked for plainly."""
    kept: Ends
    """Share of the items right before that are still right; where no probe has such items, see `likelihood`."""
    kl: float | None
    seconds: float
    likelihood: bool = False
    """Whether `kept` is how likely a token of the retain rows is after, against before."""

    @property
    def trade(self) -> float:
        """Harmonic mean of the share of secrets that stay in and the share that is kept."""
        stays, kept = 1 - self.beyond, self.kept[0]
        return 2 * stays * kept / (stays + kept) if stays + kept else 0.0


def legs(
    recipe: Callable[..., Any], values: Mapping[str, Any], ways: Mapping[str, Any], rates: Sequence[float], folder: Path, say: Callable[[str], None]
) -> Iterator[Deal]:
    """Run every method at every rate; runs that are done are read back."""
    return runs(recipe, [tune.at(values, way, rate) for way in ways.values() for rate in rates], folder, say)


def runs(recipe: Callable[..., Any], every: Sequence[Mapping[str, Any]], folder: Path, say: Callable[[str], None]) -> Iterator[Deal]:
    """The runs with these values, one after the other; those that are done are read back."""
    first: Path | None = None
    for number, arguments in enumerate(every, 1):
        method, rate = arguments["method"].kind, arguments["optimizer"].lr
        place = folder / "runs" / f"{method}-{rate:g}-{key(arguments)}"
        deal = _run(recipe, arguments, place, method, rate, first)
        first = first or place
        out = f"{100 * deal.leaked[0]:.0f}% come out under “{deal.attack}”"
        say(f"  [{number}/{len(every)}] {method} at {rate:g}: {out}, {100 * deal.kept[0]:.1f}% kept, {deal.seconds:.0f} s of training")
        yield deal


def key(arguments: Mapping[str, Any]) -> str:
    """A short key of a run's values and of what its files hold."""
    plain = plain_values(arguments)
    for name in ("model", "forget", "retain", "forget_test", "retain_test", "oracle", "base"):
        plain[name] = content_of(plain[name]) or plain[name] if plain[name] else None
    return content_key({"trade": plain})[:10]


def _run(recipe: Callable[..., Any], arguments: Mapping[str, Any], place: Path, method: str, rate: float, first: Path | None) -> Deal:
    from tempering.execution import leg

    # The same model before and the same oracle under the same attacks: measured in the first run.
    tune.measured_before(first, place, SAME)
    leg(recipe, arguments, place, "temper trade")
    return _deal(place, method, rate)


def _deal(place: Path, method: str, rate: float) -> Deal:
    found, ledger = json.loads((place / "forgetting.json").read_text()), Ledger.read(place / "ledger.json")
    worst, cost = found["leaks"][0], found["cost"]["unlearning"]
    plain = next((leak for leak in found["leaks"] if leak["attack"] == "asked"), worst)
    share = worst["share"]
    leaked: Ends = (share["point"], share["low"], share["high"])
    kl = ledger.kl.get("kl_per_token")
    beyond, seconds = len(worst["back"]) / worst["n"], float(cost.get("seconds", 0))
    return Deal(method, rate, str(place), worst["attack"], leaked, beyond, plain["after"] / plain["n"], _kept(ledger), kl, seconds, not ledger.keep)


def _kept(ledger: Ledger) -> Ends:
    """See `Deal.kept`."""
    if ledger.keep:
        return ledger.keep.point, ledger.keep.low, ledger.keep.high
    change = ledger.probe("retain_loss").difference
    low, high = (None if end is None else min(1.0, math.exp(-end)) for end in (change.high, change.low))
    return min(1.0, math.exp(-change.point)), low, high


def best(deals: Sequence[Deal]) -> list[Deal]:
    """The best trade of each method, the best method first."""
    found: dict[str, Deal] = {}
    for deal in deals:
        if deal.method not in found or deal.trade > found[deal.method].trade:
            found[deal.method] = deal
    return sorted(found.values(), key=lambda deal: (-deal.trade, deal.method))


HEADINGS = ("method", "learning rate", "strongest attack", "gets out", "asked plainly", "kept", "trade", "KL", "training")


def cells(deal: Deal) -> list[str]:
    """One row of the table."""
    span = lambda ends: f"{100 * ends[0]:.1f}%" + (f" [{100 * ends[1]:.1f}, {100 * ends[2]:.1f}]" if None not in ends else "")  # noqa: E731
    kl = "" if deal.kl is None else f"{deal.kl:.3f}"
    numbers = [span(deal.leaked), f"{100 * deal.plain:.1f}%", span(deal.kept), f"{deal.trade:.3f}", kl]
    return [deal.method, f"{deal.rate:g}", deal.attack, *numbers, f"{deal.seconds:.0f} s"]


def oracle_leak(deals: Sequence[Deal]) -> float | None:
    """The largest share that any attack gets out of the oracle; None where there is none."""
    leaks = json.loads((Path(deals[0].folder) / "forgetting.json").read_text())["leaks"]
    shares = [leak["oracle"] / leak["n"] for leak in leaks if leak["oracle"] is not None]
    return max(shares) if shares else None


def picture(deals: Sequence[Deal], *, alone: bool = False) -> Markup:
    """Kept against what the strongest attack gets out, all runs, the chosen ones by name and the others by rate; the oracle as a mark of its own."""
    chosen = best(deals)
    marks = [Mark(d.method if d in chosen else f"{d.method} {d.rate:g}", _stays(d.leaked), d.kept, _said(d), False) for d in deals]
    if (never := oracle_leak(deals)) is not None:
        marks.append(Mark("oracle", (1 - never, None, None), (1.0, None, None), "oracle: a model that never saw them, taken for 100% kept", True))
    write = lambda v: f"{100 * v:.4g}%"  # noqa: E731
    label = "Kept against secrets that stay in. " + "; ".join(_said(d) for d in deals)
    return scatter(marks, Axis("secrets that stay in under the strongest attack", write, 1.0), Axis("kept", write, 1.0), label, alone=alone)


def _stays(leaked: Ends) -> Ends:
    point, low, high = leaked
    return 1 - point, None if high is None else 1 - high, None if low is None else 1 - low


def _said(deal: Deal) -> str:
    return f"{deal.method} at {deal.rate:g}: {100 * deal.leaked[0]:.1f}% out, {100 * deal.kept[0]:.1f}% kept"


def page(deals: Sequence[Deal], facts: Mapping[str, str], notes: Sequence[str], search: Markup | None = None) -> str:
    """The table and the picture on one page that loads nothing.

    Args:
        search: a picture of how rates and steps were found.
    """
    from tempering.report.closed import page as closed

    shown = {"headings": HEADINGS, "rows": [cells(d) for d in best(deals)], "tried": [cells(d) for d in deals], "facts": facts, "notes": notes}
    return closed("tempering.forgetting", "trade.html.jinja", style=STYLE, picture=picture(deals), search=search, **shown)


def notes(deals: Sequence[Deal], *, tuned: bool = False) -> list[str]:
    """What a reader must know to read the table.

    Args:
        tuned: each method's rate was found before, by a rule that is told beside.
    """
    rates = sorted({d.rate for d in deals})
    told = [
        "“gets out” is the share of secrets that the strongest attack brings; intervals are over the secrets and items of one run, not over seeds."
    ]
    if any(d.likelihood for d in deals):
        told.append("“kept” is how likely a token of the retain rows is, against before: nothing on the keep side has right and wrong answers.")
    never = oracle_leak(deals)
    if never is None:
        told.append("There is no oracle: what any model would say counts as a leak here.")
    else:
        told.append(f"The oracle, which never saw the rows, gives at most {100 * never:.1f}% away to an attack.")
    if len(rates) > 1 and not tuned:
        told.append(f"Each method's rate is the best trade of {', '.join(f'{r:g}' for r in rates)}, chosen on the secrets and items shown here.")
    edge = [d.method for d in best(deals) if len(rates) > 1 and not tuned and d.rate in (rates[0], rates[-1])]
    if edge:
        told.append(f"At an end of the rates tried, so that a better one may lie outside: {', '.join(edge)}.")
    return told


def plain(deals: Sequence[Deal]) -> list[dict[str, Any]]:
    """As JSON can hold them."""
    return [{**asdict(deal), "trade": deal.trade} for deal in deals]
