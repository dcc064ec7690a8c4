"""A probe that asks a world's own oracle: the model writes, greedily, and the world grades or scores what it wrote.

For answers that no general rule of comparison fits (upper case, commas, a gold reward). Not a settings value, since it holds the oracle itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tempering.types import ItemScore, Policy, ProbeScores
from tempering.worlds.base import Item


@dataclass(frozen=True)
class Graded:
    """Mean of `oracle(output, item)` over the items."""

    name: str
    items: tuple[Item, ...]
    oracle: Callable[[str, Item], float]
    """A grade (True or False, or 1 and 0) for a binary metric, any number for a continuous one."""
    metric: str = "accuracy"
    kind: Literal["binary", "continuous"] = "binary"
    side: Literal["target", "keep"] = "keep"
    max_new_tokens: int = 64
    batch_size: int = 32

    def __call__(self, policy: Policy) -> ProbeScores:
        from tempering.items import prompt_ids
        from tempering.sample import sample

        prompts = [prompt_ids(policy, item["prompt"]) for item in self.items]
        outputs = sample(policy, prompts, max_new_tokens=self.max_new_tokens, batch_size=self.batch_size)
        scored = tuple(
            ItemScore(item["id"], float(self.oracle(episode.text, item)), item["prompt"], episode.text, str(item["answer"]))
            for item, (episode,) in zip(self.items, outputs, strict=True)
        )
        return ProbeScores(self.name, self.metric, self.kind, True, scored, self.side)
