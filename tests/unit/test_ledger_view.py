"""The ledger in the terminal: fits 80 columns, shows every probe, and no text of a model steers the terminal."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from tempering import gates
from tempering.ledger import Ledger, compare
from tempering.ledger_view import plain, table

from .ledger_cases import both, continuous, counted


def ledger() -> Ledger:
    probes = (
        counted("gsm-like", 80, 13, 106, 101, side="target"),
        counted("arithmetic", 100, 6, 2, 60),
        counted("a probe with a very long name indeed", 126, 3, 1, 50),
        continuous("held text", [3.0, 2.0, 2.5, 4.0], [3.1, 2.2, 2.4, 4.2]),
        continuous("one", [1.0], [1.0]),
    )
    return compare(*both(*probes), cost={"seconds": 210})


def shown(value: Ledger, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(table(value))
    return console.export_text()


@pytest.mark.parametrize("width", [80, 120])
def test_fits(width: int) -> None:
    lines = shown(ledger(), width).splitlines()
    assert max(map(len, lines)) <= width


def test_rows() -> None:
    text = shown(ledger())
    row = next(line for line in text.splitlines() if "gsm-like" in line)
    assert row.split() == ["▲", "gsm-like", "31→62", "+31", "[25,", "37]", "│", "├─■┤", "<.001", "+106", "\u221213"]
    row = next(line for line in text.splitlines() if "arithmetic" in line)
    assert row.split()[:6] == ["·", "arithmetic", "63→61", "\u22122.4", "[\u22126.6,", "1.3]*"]
    assert "Lost 22 items: 13 in gsm-like, 6 in arithmetic, 3 in a probe with a very long name indeed" in " ".join(text.split())
    # the side that should have been left alone comes first
    assert "▼ arithmetic/arithmetic100\n   asked question 100 of arithmetic?\n   right answer 100\n  before said right\n   after said wrong\n" in text
    assert "and 17 more" in text


def test_gates_are_shown() -> None:
    value = ledger()
    value = dataclasses.replace(value, gates=tuple(gates.check(value, ["keep >= 0.98", "gain > 0"])))
    text = shown(value)
    assert "✗ gate 'keep >= 0.98' FAILED" in text
    assert "✓ gate 'gain > 0' holds" in text


def test_model_text_is_only_text() -> None:
    before, after = both(counted("[red]a[/red]", 30, 3, 0, 3))
    evil = "[bold]x[/bold] \x1b[31mred\x1b]0;title\x07 \u202egnp.exe [link=http://a]b[/link]"
    probe = after.probes[0]
    items = tuple(dataclasses.replace(item, output=evil) for item in probe.items)
    value = compare(before, dataclasses.replace(after, probes=(dataclasses.replace(probe, items=items),)))
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="truecolor")
    console.print(table(value))
    out = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[bold]x[/bold] ␛[31mred␛]0;title␇ �gnp.exe [link=http://a]b[/link]" in out
    assert "[red]a[/red]" in out
    for bad in ("\x1b[31m", "\x1b]0", "\x07", "\u202e"):
        assert bad not in out


def test_plain() -> None:
    assert plain("a\tb\nc \u2192 \u00e9 \u4e2d") == "a\tb\nc \u2192 \u00e9 \u4e2d"
    assert plain("\x1b\x00\x9b\u2028\ud800") == "␛␀���"
    assert plain("👩\u200d🔧") == "👩\u200d🔧"


def test_an_empty_ledger_still_renders() -> None:
    text = shown(compare(*both()))
    assert "Nothing was measured." in text
