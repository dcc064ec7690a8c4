"""Printing: tables and lines in which text from data, models and checkpoints can neither style nor steer the terminal."""

from __future__ import annotations

import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

# Line and paragraph separators and the marks that reorder text: a terminal obeys them, a reader does not see them.
_UNSEEN = {0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C, 0xFEFF}


def clean(text: object, *, lines: bool = True) -> str:
    """Text that is safe to print: control characters become visible escapes (`\\x1b`); newlines and tabs stay where `lines` is set."""
    return "".join(_visible(c, lines) for c in str(text))


def _visible(c: str, lines: bool) -> str:
    if lines and c in "\n\t":
        return c
    if unicodedata.category(c) in ("Cc", "Cs") or ord(c) in _UNSEEN:
        return c.encode("unicode_escape").decode("ascii") if unicodedata.category(c) != "Cs" else f"\\u{ord(c):04x}"
    return c


def strip(text: str) -> str:
    """Streamed model output: control characters other than newline and tab are left out."""
    return "".join(c for c in text if c in "\n\t" or (unicodedata.category(c) not in ("Cc", "Cs") and ord(c) not in _UNSEEN))


def one_line(text: object) -> str:
    """A message on one line."""
    return clean(" ".join(str(text).split()), lines=False)


def say(text: object = "") -> None:
    """Print plain text to stdout, cleaned; characters that the terminal's encoding lacks are replaced, never an error."""
    line = clean(text)
    try:
        print(line, flush=True)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "ascii"
        print(line.encode(encoding, "replace").decode(encoding), flush=True)


def width() -> int:
    """Columns of the terminal, 110 where there is none."""
    return max(40, shutil.get_terminal_size((110, 24)).columns)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "", right: Sequence[int] = (), wrap: Sequence[int] = ()) -> None:
    """Print a table.

    Args:
        headers: column names.
        rows: cells of any type; their text is printed as it is, markup in it means nothing.
        right: columns set flush right (numbers).
        wrap: columns that may break over lines; the others stay whole.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, title=Text(title) if title else None, title_justify="left", pad_edge=False, show_edge=False)
    for i, header in enumerate(headers):
        grid.add_column(Text(header), justify="right" if i in right else "left", no_wrap=i not in wrap, overflow="fold")
    for row in rows:
        grid.add_row(*(cell if isinstance(cell, Text) else Text(clean(cell, lines=False)) for cell in row))
    plain = bool(os.environ.get("NO_COLOR")) or not sys.stdout.isatty()
    Console(width=width(), no_color=plain, highlight=False, soft_wrap=False).print(grid)


def age(seconds_since_epoch: float) -> str:
    """How long ago: "12 s", "5 min", "3 h", "2 d"."""
    passed = max(0.0, time.time() - seconds_since_epoch)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if passed >= length:
            return f"{int(passed // length)} {unit}"
    return f"{int(passed)} s"


def show_ledger(ledger: Any, lost: int = 5) -> None:
    """Print a ledger to standard output."""
    from rich.console import Console

    from tempering.ledger_view import table

    Console(width=max(80, width()), highlight=False).print(table(ledger, lost=lost))


def show_verdict(folder: Any) -> None:
    """Print what attacks still got out of a model after a forget run; nothing after other runs."""
    path = folder / "forgetting.json"
    if not path.is_file():
        return
    from rich.console import Console

    from tempering.forgetting.verdict import read
    from tempering.forgetting.view import table

    console = Console(width=max(80, width()), highlight=False)
    console.print()
    console.print(table(read(path)))
