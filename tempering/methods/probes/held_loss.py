"""Held loss: the training loss on rows of the task that were kept out of training, row by row. The plainest target probe of fine-tuning.

A row's score is its weighted negative log-likelihood per unit of token weight, in nats: -sum(weight * logp) / sum(weight) over its scored tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tempering.errors import UserError
from tempering.items import ProbeValue
from tempering.types import ItemScore, Policy, ProbeScores, Segment


class HeldLoss(ProbeValue):
    """Negative log-likelihood per trained token on held rows."""

    kind: Literal["held_loss"] = "held_loss"
    name: str = "held_loss"
    side: Literal["target", "keep"] = "target"
    rows: Any
    """A sequence of rows (`types.Row`), for example a `data.Table`."""
    part: str = "train"
    """Which part of a row is scored."""

    def __call__(self, policy: Policy) -> ProbeScores:
        from tempering.measure import logps_of

        size = len(self.rows)
        count = size if self.limit is None else min(self.limit, size)
        found = [(f"{self.part}:{i}", segment) for i in (k * size // count for k in range(count)) for segment in self._segments(self.rows[i], i)]
        if not found:
            raise UserError(f"probe {self.name}: there are no held rows, give at least one")
        starts = [int(np.flatnonzero(segment.weight)[0]) for _, segment in found]
        pairs = [(segment.ids[:start].tolist(), segment.ids[start:].tolist()) for (_, segment), start in zip(found, starts, strict=True)]
        scored, seen = [], dict.fromkeys((key for key, _ in found), 0)
        for (key, segment), (prompt, continuation), start, logp in zip(found, pairs, starts, logps_of(policy, pairs), strict=True):
            weight = segment.weight[start:].astype(np.float64)
            nll = -float(weight @ logp.double().numpy())
            extra = {"nll": nll, "weight": float(weight.sum()), "tokens": float((weight > 0).sum())}
            seen[key] += 1
            name = key if seen[key] == 1 else f"{key}.{seen[key]}"
            texts = [policy.tokenizer.decode(ids) if policy.tokenizer is not None else "" for ids in (prompt, continuation)]
            scored.append(ItemScore(name, nll / float(weight.sum()), texts[0], expected=texts[1], extra=extra))
        total, tokens = (sum(s.extra[name] for s in scored) for name in ("nll", "weight"))
        return ProbeScores(self.name, "nll per token", "continuous", False, tuple(scored), self.side, {"loss": total / tokens, "tokens": tokens})

    def _segments(self, row: Any, index: int) -> Sequence[Segment]:
        if self.part not in row:
            raise UserError(f"probe {self.name}: row {index} has no part '{self.part}', it has {', '.join(sorted(row))}")
        segments = row[self.part]
        for segment in segments:
            if not np.any(segment.weight):
                raise UserError(f"probe {self.name}: row {index} ({segment.source or 'no source'}) has no trained token, leave it out")
        return segments
