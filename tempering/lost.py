"""Items that training lost, as data to train on again: `temper lost RUN > replay.jsonl`.

Each row is a prompt with the expected answer as its completion, which `tempering.data` reads back as prompt/completion rows. Once trained on, these
items no longer measure what the model knows: keep others for measuring.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from tempering.ledger_types import Ledger


def lost_records(ledger: Ledger, *, side: str | None = None, say: Callable[[str], None] = lambda text: None) -> Iterator[dict[str, Any]]:
    """Lost items of binary probes, in the ledger's order, as {"prompt", "completion", "id", "probe"}.

    Args:
        side: only probes of this side, "keep" or "target"; None for both.
        say: told, for each probe, how many lost items had to be left out and why.
    """
    for probe in ledger.probes:
        if side is not None and probe.side != side:
            continue
        if probe.kind != "binary":
            if probe.lost_ids:
                say(f"{probe.name}: {len(probe.lost_ids)} lost items left out, they have no right answer to train on ({probe.metric}).")
            continue
        left_out = {"the ledger holds only the first ones with their texts": len(probe.lost_ids) - len(probe.lost)}
        for item in probe.lost:
            reason = "their texts were too long to keep" if item.cut else "" if item.prompt and item.expected else "they have no prompt or answer"
            if reason:
                left_out[reason] = left_out.get(reason, 0) + 1
                continue
            yield {"prompt": item.prompt, "completion": item.expected, "id": item.id, "probe": probe.name}
        for reason, count in left_out.items():
            if count:
                say(f"{probe.name}: {count} lost item{'s' if count > 1 else ''} left out, {reason}.")


def write_lost(ledger: Ledger, file: TextIO, *, side: str | None = None, say: Callable[[str], None] = lambda text: None) -> int:
    """Write one JSON object a line; returns how many."""
    count = 0
    for row in lost_records(ledger, side=side, say=say):
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        count += 1
    return count
