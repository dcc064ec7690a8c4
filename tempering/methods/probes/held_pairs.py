"""Held pairs: does the model find the chosen answer of a held-out pair likelier than the rejected one? The target probe of preference tuning.

By the mean log-prob per token, so that longer answers are not punished (Meng et al. 2024, arXiv 2405.14734); the comparison of sums, DPO's implicit
reward up to its reference (Rafailov et al. 2023, arXiv 2305.18290), is in the summary. A tie is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from tempering.items import ProbeValue, mean
from tempering.types import ItemScore, Policy, ProbeScores, Row, Segment


class HeldPairs(ProbeValue):
    """Share of held pairs whose chosen answer has the higher log-prob per token."""

    kind: Literal["held_pairs"] = "held_pairs"
    name: str = "held_pairs"
    side: Literal["target", "keep"] = "target"
    rows: Any
    """A sequence of rows (`types.Row`) with the parts "chosen" and "rejected"."""
    training: Any = None
    """A `config.Training`: scored as in training, in its precision, what rows begin with in common only once. None: in float32."""

    def __call__(self, policy: Policy) -> ProbeScores:
        size = len(self.rows)
        count = size if self.limit is None else min(self.limit, size)
        rows = [self.rows[i * size // count] for i in range(count)]
        segments: list[Segment] = [row[part][0] for row in rows for part in ("chosen", "rejected")]
        starts = [int(np.flatnonzero(s.weight)[0]) for s in segments]
        means, sums, texts = [], [], []
        for s, start, logp in zip(segments, starts, self._logps(policy, rows, segments, starts), strict=True):
            weight = s.weight[start:].astype(np.float64)
            sums.append(float(weight @ logp))
            means.append(sums[-1] / float(weight.sum()))
            texts.append((policy.tokenizer.decode(s.ids[:start]), policy.tokenizer.decode(s.ids[start:], skip_special_tokens=True)))
        scored = []
        for i in range(count):
            c, r = 2 * i, 2 * i + 1
            extra = {"margin_mean": means[c] - means[r], "margin_sum": sums[c] - sums[r]}
            won = extra["margin_mean"] > 0
            scored.append(ItemScore(f"pair:{i}", float(won), texts[c][0], texts[c if won else r][1], texts[c][1], extra))
        summary = {
            "accuracy_sum": mean([float(s.extra["margin_sum"] > 0) for s in scored]),
            "margin_mean": mean([s.extra["margin_mean"] for s in scored]),
        }
        return ProbeScores(self.name, "accuracy", "binary", True, tuple(scored), self.side, summary)

    def _logps(self, policy: Policy, rows: list[Row], segments: list[Segment], starts: list[int]) -> Iterator[np.ndarray]:
        """Log-probs of the tokens from each segment's first scored one on, float64; those of unscored tokens may be 0."""
        if self.training is None:
            from tempering.measure import logps_of

            pairs = [(s.ids[:start].tolist(), s.ids[start:].tolist()) for s, start in zip(segments, starts, strict=True)]
            yield from (logp.double().numpy() for logp in logps_of(policy, pairs))
            return
        from tempering.scored import with_logps

        found = [row[part][0].extras["logp"] for row in with_logps(policy, rows, self.training) for part in ("chosen", "rejected")]
        yield from (logp[start:].astype(np.float64) for logp, start in zip(found, starts, strict=True))
