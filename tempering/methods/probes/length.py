"""Output length: how many tokens does the model write, greedily? Longer is neither better nor worse: it is watched because preference training often
lengthens answers (Singhal et al. 2023, arXiv:2310.03716) and win rates follow length. A response cut by the token budget counts with the budget; the
summary says how many were, since above a few percent the mean understates the length.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tempering.items import Item, ProbeValue, mean, prompt_ids, read_items
from tempering.types import ItemScore, Policy, ProbeScores


class PromptItem(Item):
    """A prompt to answer."""

    prompt: str


class Length(ProbeValue):
    """Tokens of the greedy response, its stop token included."""

    kind: Literal["length"] = "length"
    name: str = "length"
    items: str | tuple[PromptItem, ...]
    """A JSON-lines file, keep:NAME, or items ({"prompt"})."""
    max_new_tokens: int = Field(default=256, gt=0)
    batch_size: int = Field(default=16, gt=0)

    def __call__(self, policy: Policy) -> ProbeScores:
        from tempering.sample import sample

        items = read_items(self.items, PromptItem, self.limit)
        prompts = [prompt_ids(policy, item.prompt, chat=self.chat) for item in items]
        outputs = sample(policy, prompts, max_new_tokens=self.max_new_tokens, batch_size=self.batch_size)
        scored = tuple(
            ItemScore(
                item.id,
                float(len(episode.ids)),
                item.prompt,
                episode.text,
                extra={"words": float(len(episode.text.split())), "cut": float(not episode.finished)},
            )
            for item, (episode,) in zip(items, outputs, strict=True)
        )
        summary = {"cut_by_budget": mean([s.extra["cut"] for s in scored]), "words": mean([s.extra["words"] for s in scored])}
        return ProbeScores(self.name, "tokens", "continuous", None, scored, self.side, summary, "neither longer nor shorter is better")
