"""Looks at a distillation while it goes on: how far the student is from its teacher and from an oracle (`temper run distil --oracle M`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tempering.forgetting.looks import Counted
from tempering.home import write_atomic
from tempering.types import Policy, Probe, Stream

FILE = "hacking.json"


class Gauge:
    """Called with the live roles after every so many steps: measures, and writes the path so far. It ends no training.

    Args:
        probe: gives "oracle" and "teacher" in its summary.
        folder: of the run.
    """

    def __init__(self, probe: Probe, folder: Path, tokenizer: Any) -> None:
        self.probe, self.file, self.tokenizer = probe, folder / FILE, tokenizer
        self.stream: Counted | None = None

    def counting(self, stream: Stream, steps: int) -> tuple[Stream, int]:
        """The stream of the run, whose steps are counted from now on."""
        self.stream = Counted(stream)
        return self.stream, steps

    def path(self) -> list[dict[str, float]]:
        """What was seen: {"step", "oracle", "teacher"}."""
        return json.loads(self.file.read_text(encoding="utf-8")) if self.file.exists() else []

    def __call__(self, roles: Mapping[str, Any]) -> str:
        assert self.stream is not None
        live, step = roles["policy"], self.stream.steps
        found = self.probe(Policy(live.model, self.tokenizer, handle=live.handle)).summary
        # A resumed run sees some steps again.
        kept = [look for look in self.path() if look["step"] < step]
        write_atomic(self.file, json.dumps([*kept, {"step": step, "oracle": found["oracle"], "teacher": found["teacher"]}], indent=1))
        return ""

    def told(self) -> str:
        """The path in a sentence."""
        path = self.path()
        least, last = min(path, key=lambda look: look["oracle"]), path[-1]
        way = f"the distance to the oracle was {least['oracle']:.3g} nats per token at step {least['step']} and is {last['oracle']:.3g} at the end"
        hacked = last["oracle"] > least["oracle"] and last["teacher"] < least["teacher"]
        near = f"that to the teacher {least['teacher']:.3g} and {last['teacher']:.3g}"
        return f"{way}, {near}" + (": teacher hacking (fresh answers, --on-policy, or more prompts help)" if hacked else "")
