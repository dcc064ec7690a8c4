"""Held answers: does the model, asked as in training, give the held-out row's answer? The target probe where answers are short.

The prompt is the row's own tokens before its first scored one, so nothing is rendered a second time. Answers are compared as `exact_answer` compares:
equal as numbers, else as words without case, punctuation and articles; where the expected text has a "####" mark, by what stands behind it.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from tempering.items import ProbeValue, mean
from tempering.types import ItemScore, Policy, ProbeScores


class HeldAnswer(ProbeValue):
    """Share of held rows whose answer is generated exactly (greedy decoding)."""

    kind: Literal["held_answer"] = "held_answer"
    name: str = "held_answer"
    side: Literal["target", "keep"] = "target"
    rows: Any
    """A sequence of rows (`types.Row`) with the part "train"."""
    max_new_tokens: int = 64

    def __call__(self, policy: Policy) -> ProbeScores:
        from tempering.methods.probes.exact_answer import extract, same
        from tempering.sample import sample

        size = len(self.rows)
        count = size if self.limit is None else min(self.limit, size)
        asked = [prompt_and_answer(self.rows[i * size // count]["train"][0]) for i in range(count)]
        outputs = sample(policy, [prompt for prompt, _ in asked], max_new_tokens=self.max_new_tokens)
        scored = []
        for i, ((prompt, answer), (episode,)) in enumerate(zip(asked, outputs, strict=True)):
            expected = policy.tokenizer.decode(answer, skip_special_tokens=True).strip()
            rule = "hashes" if "####" in expected else "text"
            right = same(extract(episode.text, rule), extract(expected, rule), rule)
            shown = policy.tokenizer.decode(prompt, skip_special_tokens=False)
            scored.append(ItemScore(f"held:{i}", float(right), shown, episode.text, expected, {"finished": float(episode.finished)}))
        return ProbeScores(self.name, "accuracy", "binary", True, tuple(scored), self.side, {"finished": mean([s.extra["finished"] for s in scored])})


def prompt_and_answer(segment: Any) -> tuple[list[int], list[int]]:
    """A segment's tokens before its first scored one, and those of the first scored stretch."""
    scored = np.flatnonzero(segment.weight)
    start = int(scored[0])
    gaps = np.flatnonzero(np.diff(scored) > 1)
    end = int(scored[gaps[0]] if len(gaps) else scored[-1]) + 1
    return segment.ids[:start].tolist(), segment.ids[start:end].tolist()
