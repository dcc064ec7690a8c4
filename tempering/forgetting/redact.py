"""What a run keeps of the text that it was told to forget: hashes and lengths, no words.

Prompts, answers and outputs of the target side are replaced before anything is written; ids and scores stay, so the ledger and the verdict are whole.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from tempering.types import Scores


def mark(text: str) -> str:
    """ "[sha256 1a2b3c4d5e6f, 34 characters]"; "" stays."""
    return f"[sha256 {hashlib.sha256(text.encode()).hexdigest()[:12]}, {len(text)} characters]" if text else ""


def redacted(scores: Scores) -> Scores:
    """The scores without the words of target items."""
    probes = []
    for probe in scores.probes:
        if probe.side == "target":
            items = tuple(replace(i, prompt=mark(i.prompt), output=mark(i.output), expected=mark(i.expected)) for i in probe.items)
            probe = replace(probe, items=items)
        probes.append(probe)
    return replace(scores, probes=tuple(probes))
