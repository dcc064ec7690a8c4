"""Held labelled answers: are desirable answers likelier than undesirable ones? The target probe of tuning on unpaired feedback.

The area under the ROC curve of the mean log-prob per token as a score of the label (Hanley & McNeil 1982): an item is a desirable answer, and its
score the share of undesirable ones below it, a tie counting half. The mean over items is the area.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from tempering.errors import UserError
from tempering.items import ProbeValue
from tempering.types import ItemScore, Policy, ProbeScores


class HeldLabels(ProbeValue):
    """Area under the ROC curve of held answers' log-prob per token against their labels."""

    kind: Literal["held_labels"] = "held_labels"
    name: str = "held_labels"
    side: Literal["target", "keep"] = "target"
    rows: Any
    """A sequence of rows (`types.Row`) with the part "train", whose segments have the extra "label"."""

    def __call__(self, policy: Policy) -> ProbeScores:
        from tempering.measure import logps_of

        size = len(self.rows)
        count = size if self.limit is None else min(self.limit, size)
        segments = [s for i in range(count) for s in self.rows[i * size // count]["train"]]
        starts = [int(np.flatnonzero(s.weight)[0]) for s in segments]
        logps = logps_of(policy, [(s.ids[:start].tolist(), s.ids[start:].tolist()) for s, start in zip(segments, starts, strict=True)])
        means = []
        for s, start, logp in zip(segments, starts, logps, strict=True):
            weight = s.weight[start:].astype(np.float64)
            means.append(float(weight @ logp.double().numpy()) / float(weight.sum()))
        bad = np.array([m for s, m in zip(segments, means, strict=True) if not float(s.extras["label"]) > 0])
        good = [(i, m) for i, (s, m) in enumerate(zip(segments, means, strict=True)) if float(s.extras["label"]) > 0]
        if not good or not len(bad):
            raise UserError("held-out rows: all have the same label; give held-out rows with both, desirable and undesirable, by --test")
        scored = []
        for i, m in good:
            prompt = policy.tokenizer.decode(segments[i].ids[: starts[i]])
            answer = policy.tokenizer.decode(segments[i].ids[starts[i] :], skip_special_tokens=True)
            share = float((bad < m).mean() + (bad == m).mean() / 2)
            scored.append(ItemScore(f"answer:{i}", share, prompt, "", answer, {"logp_mean": m}))
        summary = {"logp_mean_desirable": float(np.mean([m for _, m in good])), "logp_mean_undesirable": float(bad.mean())}
        return ProbeScores(self.name, "area under ROC", "continuous", True, tuple(scored), self.side, summary)
