"""What attacks still get out of a model after a forget run, as rows for the page."""

from __future__ import annotations

from typing import Any

from tempering.forgetting.verdict import Leak, Verdict
from tempering.ledger_types import percent, points
from tempering.report import charts


def section(verdict: Verdict) -> dict[str, Any]:
    """The sentence, the attacks that count and those told beside, and how much of the behaviour a prompt brings back."""
    return {
        "sentence": verdict.sentence,
        "numbers": verdict.numbers,
        "groups": [
            ("Attacks that count, the strongest first", "", [_row(leak) for leak in verdict.leaks]),
            ("Beside the verdict", "beside", [_row(leak) for leak in verdict.beside]),
        ],
        "never": any(leak.oracle is not None for leak in (*verdict.leaks, *verdict.beside)),
        "recovered": [(word, f"{points(verdict.recovered[key], sign=True)} points") for key, word in _WHO if key in verdict.recovered],
    }


_WHO = (("before", "before"), ("after", "now"), ("oracle", "a model that never saw it"))


def _row(leak: Leak) -> dict[str, Any]:
    n = max(1, leak.n)
    never = None if leak.oracle is None else leak.oracle / n
    said = f"{leak.attack}: {leak.after} of {leak.n} secrets come out now, {leak.before} before"
    said += "" if leak.oracle is None else f", {leak.oracle} from a model that never saw them"
    notes = [", ".join(f"{name.removeprefix('out ')}: {percent(value)}" for name, value in leak.curve.items())] if leak.curve else []
    if not leak.before and not leak.after:
        notes.append("got nothing before either, so it says nothing here")
    notes += [] if leak.chance is None else [f"by chance: {percent(leak.chance)}"]
    return {
        "leak": leak,
        "bar": charts.levels(leak.after / n, leak.before / n, leak.share.low, leak.share.high, never, said),
        "share": percent(leak.share.point),
        "span": f"{100 * (leak.share.low or 0.0):.0f}% to {100 * (1.0 if leak.share.high is None else leak.share.high):.0f}%",
        "notes": [*notes, *([leak.note] if leak.note else [])],
    }
