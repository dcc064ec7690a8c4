"""What runs in a contender's own process: the function that the harness names, and the meter that it reports with.

python -m benchmarks.child benchmarks.plain:sft '{"seed": 0, ...}' report.json
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


class Meter:
    """Times the optimizer steps of one contender, and notes what its imports alone occupy.

    `imported()` when everything is imported and no model is loaded yet, `start()` before the first step, `step()` at the end of each one.
    """

    def __init__(self) -> None:
        self.imports_bytes, self.marks, self.first_step_at = 0, [0.0], 0.0

    def imported(self) -> None:
        """What is resident now belongs to the libraries."""
        self.imports_bytes = resident()

    def start(self) -> None:
        """The next step begins."""
        self.marks = [time.perf_counter()]

    def step(self) -> None:
        """An optimizer step has ended."""
        self.marks.append(time.perf_counter())
        if len(self.marks) == 2:
            self.first_step_at = time.time()

    def report(self, *, tokens: list[int], **facts: Any) -> dict[str, Any]:
        """The child's report.

        Args:
            tokens: real tokens (no padding) of each step that was timed.
            facts: what the harness compares between contenders: scored, rows, loss; and judging_s, seconds that are not the contender's own.
        """
        import torch

        if len(tokens) != len(self.marks) - 1:
            raise ValueError(f"{len(tokens)} steps were planned, {len(self.marks) - 1} were timed")
        steps = [b - a for a, b in zip(self.marks[:-1], self.marks[1:], strict=True)]
        return {
            "steps_s": steps,
            "tokens": tokens,
            "imports_bytes": self.imports_bytes,
            "first_step_at": self.first_step_at,
            "threads": torch.get_num_threads(),
            **facts,
        }


def resident() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(target: str, arguments: str, out: str) -> None:
    """Call `module:function` with JSON keywords and write what it returns as JSON."""
    module, _, name = target.partition(":")
    report = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    Path(out).write_text(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:4])
