"""The ledger in a terminal: one row a probe with a bar for the change and its interval, then what was lost.

Bars point right for better and left for worse. Colours are blue and orange, which all common forms of colour blindness tell apart, and every colour
has a sign beside it. What models wrote is shown as plain text: control characters, terminal escapes and direction marks are made visible.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tempering.ledger_types import GateResult, Ledger, ProbeChange, percent, signed

BETTER, WORSE = "#4c9be8", "#e8853d"
SIGNS = {"gained": ("▲", BETTER), "lost": ("▼", WORSE), "changed": ("◆", "default"), "no change detected": ("·", "dim")}
BAR, SHORT_BAR = 17, 11
"""Cells of a bar, odd so that zero has a cell of its own; numbers with units of their own leave less room."""


def table(ledger: Ledger, *, lost: int = 5) -> Group:
    """Everything a terminal shows of a ledger, at 80 columns or more.

    Args:
        lost: how many lost items to list with their texts.
    """
    parts: list[RenderableType] = [Text(plain(f"{ledger.before_model or 'before'} → {ledger.after_model or 'after'}"), style="bold")]
    binary = [probe for probe in ledger.probes if probe.kind == "binary"]
    continuous = [probe for probe in ledger.probes if probe.kind == "continuous"]
    if binary:
        parts += [Text(""), _table(binary, "share right, %", ledger.alpha)]
    if continuous:
        parts += [Text(""), _table(continuous, "other", ledger.alpha)]
    parts += [Text(""), *(Text(line, style="dim") for line in _legend(ledger, binary, continuous))]
    parts += [Text(f"! {plain(line)}") for line in _warnings(ledger)]
    parts += _lost(ledger, lost)
    if ledger.gates:
        parts += [Text(""), *(_gate(result) for result in ledger.gates)]
    parts += [Text(""), Text(plain(ledger.sentence()), style="bold")]
    return Group(*parts)


def plain(text: str) -> str:
    """Text that cannot steer a terminal: control and format characters (escape, bell, right-to-left marks) become visible marks."""
    return "".join(_visible(c) for c in text)


def _visible(c: str) -> str:
    if c in "\n\t":
        return c
    if ord(c) < 0x20:
        return chr(0x2400 + ord(c))
    # joiners are kept: they make one emoji or letter of several
    return "�" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and c not in "\u200c\u200d" else c


def _table(probes: Sequence[ProbeChange], title: str, alpha: float) -> Table:
    shared = max(_reach(probe) for probe in probes) if probes[0].kind == "binary" else None
    width = SHORT_BAR if shared is None else BAR
    rows = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False, header_style="dim")
    rows.add_column("")
    rows.add_column(title, min_width=12, overflow="ellipsis")
    rows.add_column("before→after", justify="right", no_wrap=True)
    rows.add_column(f"Δ [{1 - alpha:.0%}]", justify="right", no_wrap=True)
    rows.add_column(f"{'◁ worse' if width == BAR else '◁':<{width // 2}} {'better ▷' if width == BAR else '▷':>{width // 2}}", no_wrap=True)
    rows.add_column("p adj", justify="right", no_wrap=True)
    rows.add_column("items", justify="right", no_wrap=True)
    for probe in sorted(probes, key=lambda probe: probe.side != "target"):
        sign, style = SIGNS[probe.verdict]
        d = probe.difference
        show = _shown_like(probe)
        interval = "" if d.low is None or d.high is None else f" [{show(d.low)}, {show(d.high)}]"
        moved = f"+{len(probe.gained_ids)} \u2212{len(probe.lost_ids)}" if probe.gained_ids or probe.lost_ids else "none"
        rows.add_row(
            Text(sign, style=style),
            Text(plain(probe.name), style="bold" if probe.side == "target" else ""),
            f"{probe.show(probe.before.point)}→{probe.show(probe.after.point)}",
            Text(f"{show(d.point, sign=True)}{interval}{'*' if d.conservative else ''}"),
            _bar(probe, shared if shared is not None else _reach(probe), style, width),
            "<.001" if probe.p_adjusted < 0.001 else "1" if probe.p_adjusted > 0.9995 else f"{probe.p_adjusted:.3f}".lstrip("0"),
            moved,
        )
    return rows


def _reach(probe: ProbeChange) -> float:
    d = probe.difference
    return max(abs(d.point), abs(d.low or 0.0), abs(d.high or 0.0))


def _shown_like(probe: ProbeChange) -> Callable[..., str]:
    """How to write a change: continuous ones to the two digits that the width of the interval leaves certain."""
    d = probe.difference
    if probe.kind == "binary" or d.low is None or d.high is None or d.high <= d.low:
        return probe.show
    decimals = max(0, min(5, 1 - math.floor(math.log10((d.high - d.low) / 2))))

    def show(value: float, *, sign: bool = False) -> str:
        return signed(f"{value:.{decimals}f}", sign=sign)

    return show


def _bar(probe: ProbeChange, reach: float, style: str, width: int) -> Text:
    """Zero in the middle, the interval as a line, the estimate as a block."""
    middle = width // 2
    better = probe.improvement

    def cell(value: float) -> int:
        return middle + (round(value / reach * middle) if reach > 0 and math.isfinite(value) else 0)

    cells = [" "] * width
    if better.low is not None and better.high is not None:
        low, high = cell(better.low), cell(better.high)
        cells[low : high + 1] = "─" * (high - low + 1)
        cells[low], cells[high] = "├", "┤"
    at = cell(better.point)
    cells[middle] = "│" if cells[middle] == " " else "┼"
    cells[at] = "■"
    bar = Text("".join(cells), style=style)
    if at != middle:
        bar.stylize("default", middle, middle + 1)
    return bar


def _legend(ledger: Ledger, binary: Sequence[ProbeChange], continuous: Sequence[ProbeChange]) -> list[str]:
    signs = "▲ gained  ▼ lost  · no change detected   items: +gained \u2212lost   bold: target"
    lines = [signs, f"p adj: Holm over {ledger.comparisons} comparison{'s' if ledger.comparisons != 1 else ''}; one unadjusted interval each"]
    if any(probe.difference.level != 1 - ledger.alpha for probe in ledger.probes):
        lines[1] = f"p adj: Holm over {ledger.comparisons} comparisons; intervals hold together"
    if any(probe.difference.conservative for probe in binary):
        lines.append("* few items changed: this interval is wider than needed")
    if continuous:
        lines.append("other: each bar has a scale of its own")
    return lines


def _warnings(ledger: Ledger) -> list[str]:
    lines = []
    unseen = [probe for probe in ledger.probes if probe.verdict == "no change detected"]
    if unseen:
        sizes = (f"{probe.name} {probe.show(probe.mde)}" if probe.mde is not None else f"{probe.name} (no change at all)" for probe in unseen)
        lines.append(f"no change detected, and none smaller than this could be seen: {', '.join(sizes)}")
    full = [f"{probe.name} {percent(probe.before.point)}" for probe in ledger.probes if probe.headroom]
    if full:
        lines.append(f"little headroom, base score outside 15% to 85%: {', '.join(full)}")
    return lines


def _lost(ledger: Ledger, most: int) -> list[RenderableType]:
    probes = [probe for probe in ledger.probes if probe.lost_ids and probe.kind == "binary"]
    total = sum(len(probe.lost_ids) for probe in probes)
    if not total:
        return []
    where = plain(", ".join(f"{len(probe.lost_ids)} in {probe.name}" for probe in probes))
    parts: list[RenderableType] = [Text(""), Text.assemble((f"Lost {total} item{'s' if total > 1 else ''}: ", "bold"), where)]
    # keep side first: those are the losses nobody asked for
    shown = [(probe, item) for probe in sorted(probes, key=lambda probe: probe.side) for item in probe.lost][:most]
    for probe, item in shown:
        parts.append(Text.assemble(("▼ ", WORSE), plain(f"{probe.name}/{item.id}")))
        for label, text in (("asked", item.prompt), ("right", item.expected), ("before", item.before_output), ("after", item.after_output)):
            if text.strip():
                row = Text.assemble((f"{label:>6} ", "dim"), _one_line(text), no_wrap=True, overflow="ellipsis")
                parts.append(Padding(row, (0, 0, 0, 2), expand=False))
    if total > len(shown):
        parts.append(Text(f"and {total - len(shown)} more; all are in ledger.json, and `temper lost RUN` writes them as data", style="dim"))
    return parts


def _one_line(text: str, most: int = 200) -> str:
    flat = plain(" ".join(text.split()))
    return flat if len(flat) <= most else flat[: most - 1] + "…"


def _gate(result: GateResult) -> Text:
    return Text.assemble(("✓ ", BETTER) if result.passed else ("✗ ", WORSE), plain(result.message))
