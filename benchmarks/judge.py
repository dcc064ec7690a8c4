"""How good a contender's weights are at the end, by one plain piece of code for all of them: a faster step that learns less is no win."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from benchmarks import precision


def nll(model: Any, rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """(mean NLL of the scored tokens, seconds it took): a row at a time, so that it never sets the peak of memory."""
    import torch

    began, total, count = time.perf_counter(), 0.0, 0
    model.eval()
    with torch.no_grad(), precision.autocast():
        for row in rows:
            ids, mask = torch.tensor([row["ids"]]), torch.tensor(row["mask"][1:], dtype=torch.bool)
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1][mask].float()
            total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:][mask], reduction="sum"))
            count += int(mask.sum())
    return total / count, time.perf_counter() - began
