"""Held labelled answers: are desirable answers likelier than undesirable ones? The target probe of tuning on unpaired feedback.

An item is a desirable answer and an undesirable one, matched once (with each other where they answer one prompt), so that items are independent:
which has the higher mean log-prob per token? The area under the ROC curve, which compares all with all (Hanley & McNeil 1982), is in the summary.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from tempering.items import ProbeValue, mean
from tempering.methods.probes.held_score import area, match, won
from tempering.types import ItemScore, Policy, ProbeScores


class HeldLabels(ProbeValue):
    """Share of matched held answers whose desirable one has the higher log-prob per token."""

    kind: Literal["held_labels"] = "held_labels"
    name: str = "held_labels"
    side: Literal["target", "keep"] = "target"
    rows: Any
    """A sequence of rows (`types.Row`) with the part "train", whose segments have the extra "label"."""

    def __call__(self, policy: Policy) -> ProbeScores:
        from tempering.measure import logps_of

        size = len(self.rows)
        count = size if self.limit is None else min(self.limit, size)
        found = [(i, s) for i in range(count) for s in self.rows[i * size // count]["train"]]
        of_row, segments = [i for i, _ in found], [s for _, s in found]
        starts = [int(np.flatnonzero(s.weight)[0]) for s in segments]
        logps = logps_of(policy, [(s.ids[:start].tolist(), s.ids[start:].tolist()) for s, start in zip(segments, starts, strict=True)])
        means = []
        for s, start, logp in zip(segments, starts, logps, strict=True):
            weight = s.weight[start:].astype(np.float64)
            means.append(float(weight @ logp.double().numpy()) / float(weight.sum()))
        good, bad = ([k for k, s in enumerate(segments) if (float(s.extras["label"]) > 0) is wanted] for wanted in (True, False))
        scored = []
        for a, b in match([of_row[k] for k in good], [of_row[k] for k in bad]):
            best, worst = good[a], bad[b]
            prompt = policy.tokenizer.decode(segments[best].ids[: starts[best]])
            answer = policy.tokenizer.decode(segments[best].ids[starts[best] :], skip_special_tokens=True)
            extra = {"logp_mean": means[best], "logp_mean_undesirable": means[worst]}
            scored.append(ItemScore(f"answers:{best}", won(means[best] - means[worst]), prompt, "", answer, extra))
        high, low = [means[k] for k in good], [means[k] for k in bad]
        summary = {"auroc": area(high, low), "logp_mean_desirable": mean(high), "logp_mean_undesirable": mean(low)}
        return ProbeScores(self.name, "desirable above undesirable, ties half", "continuous", True, tuple(scored), self.side, summary)
