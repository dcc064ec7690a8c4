"""A ledger as trackers take it: numbers by name, and one page of Markdown."""

from __future__ import annotations

import math

from tempering.ledger_types import Ledger
from tempering.report.card import ledger_markdown

_WORDS = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}


def numbers(ledger: Ledger) -> dict[str, float]:
    """Every probe before, after and its change with bounds; gain, keep, KL and cost; each gate as 1 (held) or 0. What is not there is left out."""
    found: dict[str, float | None] = {}
    for probe in ledger.probes:
        at = f"probe/{probe.name}"
        found |= {f"{at}/before": probe.before.point, f"{at}/after": probe.after.point, f"{at}/delta": probe.difference.point}
        found |= {f"{at}/delta_low": probe.difference.low, f"{at}/delta_high": probe.difference.high}
    for name, interval in (("gain", ledger.gain), ("keep", ledger.keep)):
        if interval is not None:
            found |= {f"ledger/{name}": interval.point, f"ledger/{name}_low": interval.low, f"ledger/{name}_high": interval.high}
    found |= {f"ledger/{name}": value for name, value in ledger.kl.items()} | {f"cost/{name}": value for name, value in ledger.cost.items()}
    found |= {f"gate/{in_words(gate.gate)}": float(gate.passed) for gate in ledger.gates}
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


def in_words(gate: str) -> str:
    """A gate without signs that trackers refuse in a name: "keep >= 0.98" -> "keep at least 0.98"."""
    sign = next((sign for sign in _WORDS if sign in gate), None)
    if sign is None:
        return gate
    target, _, number = gate.partition(sign)
    return f"{target.strip()} {_WORDS[sign]} {number.strip()}"


def text(ledger: Ledger) -> str:
    """The ledger as the model card shows it."""
    return "\n\n".join(ledger_markdown(ledger))
