"""Perplexity: how well the model predicts held texts, document by document.

An item's score is its mean negative log-likelihood per token, in nats. The summary weighs tokens equally: perplexity is exp of the mean over all
tokens, bits per byte the total in bits over the total of UTF-8 bytes, which can be compared between tokenizers. A document's first token has nothing
before it: it is context, unless the tokenizer itself puts a beginning-of-text token first.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from tempering.errors import UserError
from tempering.items import Item, ProbeValue, read_items
from tempering.types import ItemScore, Policy, ProbeScores


class TextItem(Item):
    """A held text."""

    text: str


class Perplexity(ProbeValue):
    """Negative log-likelihood per token on held texts."""

    kind: Literal["perplexity"] = "perplexity"
    name: str = "perplexity"
    items: str | tuple[TextItem, ...]
    """A JSON-lines file, keep:NAME, or items ({"text"})."""
    max_tokens: int = Field(default=1024, gt=1)
    """Longer documents are cut here; the note says how many were."""

    def __call__(self, policy: Policy) -> ProbeScores:
        from tempering.measure import logps_of

        items = read_items(self.items, TextItem, self.limit)
        rows = [list(policy.tokenizer(item.text)["input_ids"]) for item in items]
        for item, ids in zip(items, rows, strict=True):
            if len(ids) < 2:
                raise UserError(f"item '{item.id}': a text of at least two tokens is needed, '{item.text}' has {len(ids)}")
        cut = sum(len(ids) > self.max_tokens for ids in rows)
        rows = [ids[: self.max_tokens] for ids in rows]
        logps = logps_of(policy, [(ids[:1], ids[1:]) for ids in rows])
        scored = []
        for item, ids, logp in zip(items, rows, logps, strict=True):
            nll, tokens = -float(logp.double().sum()), len(ids) - 1
            size = len(policy.tokenizer.decode(ids[1:], skip_special_tokens=True).encode())
            scored.append(ItemScore(item.id, nll / tokens, item.text, extra={"nll": nll, "tokens": float(tokens), "bytes": float(size)}))
        nll, tokens, size = (sum(s.extra[key] for s in scored) for key in ("nll", "tokens", "bytes"))
        summary = {"perplexity": math.exp(min(nll / tokens, 700.0)), "bits_per_byte": nll / math.log(2) / max(size, 1.0), "tokens": tokens}
        note = f"{cut} of {len(items)} documents were cut at {self.max_tokens} tokens" if cut else ""
        return ProbeScores(self.name, "nll per token", "continuous", False, tuple(scored), self.side, summary, note)
