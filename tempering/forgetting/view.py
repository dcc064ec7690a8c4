"""The verdict in a terminal: a row for each attack with a bar of what came out, the strongest first, then what is told beside.

Blocks are what comes out now, the dotted rest what came out before, the line what a model that never saw the data gives away. No two things are told
apart by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tempering.forgetting.verdict import Leak, Verdict
from tempering.ledger_view import WORSE, plain

BAR = 16
"""Cells of a bar."""


def table(verdict: Verdict) -> Group:
    """Everything a terminal shows of a verdict, at 80 columns or more."""
    never = any(leak.oracle is not None for leak in verdict.leaks)
    parts: list[RenderableType] = [Text("What still comes out", style="bold"), Text(plain(verdict.sentence)), Text("")]
    parts.append(_rows(verdict.leaks, "attack", never))
    if verdict.beside:
        parts += [Text(""), _rows(verdict.beside, "beside, not counted", never)]
    legend = "█ comes out now  · came out before" + ("  │ from a model that never saw it" if never else "")
    parts += [Text(""), Text(legend, style="dim")]
    parts += [part for line in verdict.numbers for part in (Text(""), Text(plain(line)))]
    return Group(*parts)


def _rows(leaks: Sequence[Leak], title: str, never: bool) -> Table:
    rows = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    rows.add_column(title, min_width=28, overflow="ellipsis", no_wrap=True)
    for name in ("before", "now", *(("never saw",) if never else ())):
        rows.add_column(name, justify="right", no_wrap=True)
    rows.add_column("of", justify="right", no_wrap=True, min_width=3)
    rows.add_column("", no_wrap=True)
    for leak in leaks:
        seen = () if not never else ("" if leak.oracle is None else str(leak.oracle),)
        rows.add_row(Text(plain(leak.attack)), str(leak.before), str(leak.after), *seen, str(leak.n), bar(leak))
    return rows


def bar(leak: Leak) -> Text:
    """A share of `BAR` cells; what is not nothing has at least one cell."""

    def cells(count: int) -> int:
        return min(BAR, max(int(count > 0), round(BAR * count / leak.n))) if leak.n else 0

    now, before = cells(leak.after), cells(leak.before)
    drawn = ["█"] * now + ["·"] * max(0, before - now)
    drawn += [" "] * (BAR - len(drawn))
    found = Text("▕" + "".join(drawn) + "▏", style="dim")
    found.stylize(WORSE, 1, 1 + now)
    if leak.oracle is not None:
        at = 1 + min(BAR - 1, cells(leak.oracle))
        found = Text.assemble(found[:at], ("│", "bold"), found[at + 1 :])
    return found
