"""race.html: the table and the picture on one page that loads nothing. Every text is escaped, and the page's policy allows its own style only."""

from __future__ import annotations

from tempering.race.picture import STYLE, picture
from tempering.race.result import Lane, Race
from tempering.report.closed import page
from tempering.stats import Interval


def span(found: Interval | None, scale: float = 1.0, digits: int = 1) -> str:
    """ "+12.3 [+4.5, +20.1]"; "" for none."""
    if found is None:
        return ""
    show = lambda v: f"{scale * v:+.{digits}f}"  # noqa: E731
    return show(found.point) + (f" [{show(found.low)}, {show(found.high)}]" if found.low is not None and found.high is not None else "")


def share(found: Interval | None) -> str:
    """ "98.1% [97.0, 99.2]"; "" for none."""
    if found is None:
        return ""
    return f"{found.point:.1%}" + (f" [{100 * found.low:.1f}, {100 * found.high:.1f}]" if found.low is not None and found.high is not None else "")


def cells(race: Race, lane: Lane) -> list[str]:
    """One row of the table; `headings` names them."""
    scale, digits = (100.0, 1) if race.share else (1.0, 3)
    adjusted = "" if lane.p_adjusted is None else ("<.001" if lane.p_adjusted < 0.001 else f"{lane.p_adjusted:.3f}")
    tokens = sum(f.tokens for f in lane.finishes) / len(lane.finishes)
    seconds = sum(f.seconds for f in lane.finishes) / len(lane.finishes)
    row = [
        lane.method,
        f"{lane.rate:g}" + (f" ({lane.edge})" if lane.edge else ""),
        span(lane.gain, scale, digits),
        span(lane.against, scale, digits),
        adjusted,
        share(lane.keep),
    ]
    if any(one.gold for one in race.lanes):
        row.append(span(lane.gold, 1.0, 2))
    return [*row, f"{tokens:,.0f}", f"{seconds:.0f} s"]


def headings(race: Race) -> list[str]:
    """Names of the table's columns."""
    unit = ", nats a token" if race.margin else ", points" if race.share else ""
    gold = ["gold reward of its replies"] if any(lane.gold for lane in race.lanes) else []
    return ["method", "learning rate", f"gain on {race.gain_on}{unit}", f"minus {race.lanes[0].method}", "p adj", "kept", *gold, "tokens", "training"]


def notes(race: Race) -> list[str]:
    """What a reader must know to read the table."""
    seeds, rates, level = race.plan["seeds"], race.plan["rates"], race.lanes[0].gain.level
    if race.over == "seeds":
        of = "each with data of its own" if race.own_data else "the same data and test rows, in another order"
        told = [f"Intervals ({level:.0%}) are t intervals over {len(seeds)} paired seeds, {of}."]
        told += [f"{len(seeds)} seeds cannot check that differences are normal; take 5 or more for a claim."] if len(seeds) < 5 else []
    else:
        told = ["One seed: intervals are over the test items, and say nothing about other seeds."]
    first = race.lanes[0].method
    told.append(f"“minus {first}” is the paired difference in gain; its p values are adjusted by Holm over {len(race.lanes) - 1} comparisons.")
    if len(rates) > 1:
        told.append(f"Each method had {len(rates)} tuning runs, one for each rate ({', '.join(f'{r:g}' for r in rates)}), chosen on validation rows.")
    else:
        told.append(f"The learning rate {rates[0]:g} was not tuned.")
    if edges := [f"{lane.method} ({lane.edge})" for lane in race.lanes if lane.edge]:
        told.append(f"At an end of the rates tried, so that a better one may lie outside: {', '.join(edges)}.")
    if race.uneven:
        told.append("The methods saw numbers of tokens that differ by more than 1%: see the column.")
    told.append("Tokens are those of the policy's forward pass; a reference's are not counted.")
    if race.margin:
        told.append(
            "The gain is by how much an answer's mean log-prob per token rose above the other's; it also grows when a model only becomes surer."
        )
    if race.quick:
        told.append("A quick race: it says that the methods run, and is not a result.")
    return told


def render(race: Race) -> str:
    """The page as a string."""
    shown = {"headings": headings(race), "rows": [cells(race, lane) for lane in race.lanes], "notes": notes(race)}
    return page("tempering.race", "race.html.jinja", style=STYLE, race=race, picture=picture(race), **shown)
