"""What a run shows while it works: the phase, how far, how fast, how long still. A bar in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

EVERY_S = 10.0
"""Seconds between lines where there is no terminal."""


class Display:
    """Sentences and progress on standard error, so that standard output stays for results."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, soft_wrap=True, highlight=False)
        self._bar: Progress | None = None
        self._task: Any = None
        self._said = 0.0
        self._phase = ""
        self._began = 0.0

    def say(self, sentence: str) -> None:
        """One sentence; nothing in it is taken for markup or a control sequence."""
        self.console.print(Text(_plain(sentence)))

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Display]:
        """Progress of one phase; inside it call `advance`."""
        self._phase, self._began, self._said = name, time.monotonic(), time.monotonic()
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
            with Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True) as bar:
                self._bar, self._task = bar, bar.add_task(name, total=total, note="")
                try:
                    yield self
                finally:
                    self._bar = None
        else:
            self.say(f"{name} ...")
            yield self

    def advance(self, done: int, total: int, note: str = "") -> None:
        """Say that `done` of `total` are done; `note` is a few words such as the loss and the speed."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, note=_plain(note))
            return
        now = time.monotonic()
        if now - self._said >= EVERY_S:
            self._said = now
            left = (now - self._began) / max(done, 1) * (total - done)
            self.say(f"{self._phase}: {done}/{total}  {note}  about {left:.0f} s left")


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
