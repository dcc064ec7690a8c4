"""Diversity: how different are several samples of the same prompt?

Per prompt, the share of distinct n-grams among all n-grams of its samples together (distinct-n, Li et al. 2016, arXiv:1510.03055). The summary adds
distinct-1 and distinct-2 over all prompts, the entropy of the n-grams in bits, and the mean n-gram overlap of a sample with the prompt's other
samples (the precision inside self-BLEU, Zhu et al. 2018, arXiv:1802.01886, without its brevity penalty and geometric mean). Words are split at
white space after lower-casing, so the number does not depend on the tokenizer. Fine-tuning, and preference training most, tends to lower it.
Distinct-n falls with length, so samples have a fixed token budget.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tempering.items import Item, ProbeValue, mean, prompt_ids, read_items
from tempering.types import ItemScore, Policy, ProbeScores


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """The n-grams of a text's lower-cased words, in order."""
    words = text.lower().split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def distinct(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams over all n-grams of the texts; 0 where there are none."""
    found = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(found)) / len(found) if found else 0.0


def entropy(texts: Sequence[str], n: int) -> float:
    """Entropy in bits of the distribution of n-grams; 0 where there are none."""
    counts = Counter(gram for text in texts for gram in ngrams(text, n))
    total = counts.total()
    return sum(-c / total * math.log2(c / total) for _, c in sorted(counts.items()))


def overlap(texts: Sequence[str], n: int) -> float:
    """Mean share of a text's n-grams (clipped counts) that some other text has; 0 for fewer than two texts with n-grams."""
    counts = [Counter(ngrams(text, n)) for text in texts]
    shares = []
    for i, mine in enumerate(counts):
        best: Counter[tuple[str, ...]] = Counter()
        for j, theirs in enumerate(counts):
            if i != j:
                best |= theirs
        if mine:
            shares.append((mine & best).total() / mine.total())
    return mean(shares) if len(shares) > 1 else 0.0


class PromptItem(Item):
    """A prompt to answer several times."""

    prompt: str


class Diversity(ProbeValue):
    """Distinct-n of the samples of each prompt."""

    kind: Literal["diversity"] = "diversity"
    name: str = "diversity"
    items: str | tuple[PromptItem, ...]
    """A JSON-lines file, keep:NAME, or items ({"prompt"})."""
    samples: int = Field(default=4, gt=1)
    """Samples of each prompt."""
    n: int = Field(default=2, gt=0)
    """Length of the n-grams."""
    temperature: float = Field(default=1.0, gt=0)
    max_new_tokens: int = Field(default=32, gt=0)
    seed: int = Field(default=0, ge=0)
    batch_size: int = Field(default=16, gt=0)

    def __call__(self, policy: Policy) -> ProbeScores:
        from tempering.sample import sample

        items = read_items(self.items, PromptItem, self.limit)
        prompts = [prompt_ids(policy, item.prompt, chat=self.chat) for item in items]
        sampled = sample(
            policy,
            prompts,
            n=self.samples,
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
            seed=self.seed,
            batch_size=self.batch_size,
        )
        texts = [[episode.text for episode in episodes] for episodes in sampled]
        scored = tuple(
            ItemScore(item.id, distinct(mine, self.n), item.prompt, "\n---\n".join(mine), extra={"overlap": overlap(mine, self.n)})
            for item, mine in zip(items, texts, strict=True)
        )
        every = [text for mine in texts for text in mine]
        summary = {"distinct1": distinct(every, 1), "distinct2": distinct(every, 2), f"entropy{self.n}": entropy(every, self.n)}
        summary["overlap"] = mean([s.extra["overlap"] for s in scored])
        return ProbeScores(self.name, f"distinct-{self.n}", "continuous", True, scored, self.side, summary)
