"""Preference accuracy: does the model give the chosen response a higher log-prob than the rejected one?

By `sum` over the response's tokens, as DPO's implicit reward without its reference (Rafailov et al. 2023, arXiv:2305.18290), or by `mean` over
them, as SimPO (Meng et al. 2024, arXiv:2405.14734), which does not favour short responses. The end-of-turn token counts as part of a response. Both
are in the items' extras; a tie is wrong.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from tempering.items import Item, ProbeValue, answer_ids, ending, mean, prompt_ids, read_items
from tempering.types import ItemScore, Policy, ProbeScores


class PreferenceItem(Item):
    """A prompt with a better and a worse response."""

    prompt: str
    chosen: str
    rejected: str

    @model_validator(mode="after")
    def _differ(self) -> PreferenceItem:
        if self.chosen == self.rejected:
            raise ValueError("chosen and rejected are the same text")
        return self


class PreferenceAccuracy(ProbeValue):
    """Share of the pairs whose chosen response is the likelier one."""

    kind: Literal["preference_accuracy"] = "preference_accuracy"
    name: str = "preference_accuracy"
    items: str | tuple[PreferenceItem, ...]
    """A JSON-lines file, keep:NAME, or items ({"prompt", "chosen", "rejected"})."""
    normalise: Literal["sum", "mean"] = "mean"

    def __call__(self, policy: Policy) -> ProbeScores:
        from tempering.measure import logps_of

        items = read_items(self.items, PreferenceItem, self.limit)
        tail = ending(policy, chat=self.chat)
        pairs = []
        for item in items:
            ids = prompt_ids(policy, item.prompt, chat=self.chat)
            pairs += [(ids, answer_ids(policy, text) + tail) for text in (item.chosen, item.rejected)]
        logps = logps_of(policy, pairs)
        scored = []
        for item, chosen, rejected in zip(items, logps[::2], logps[1::2], strict=True):
            margins = {"margin_sum": float(chosen.sum() - rejected.sum()), "margin_mean": float(chosen.mean() - rejected.mean())}
            won = margins[f"margin_{self.normalise}"] > 0
            scored.append(ItemScore(item.id, float(won), item.prompt, item.chosen if won else item.rejected, item.chosen, margins))
        summary = {f"accuracy_{by}": mean([float(s.extra[f"margin_{by}"] > 0) for s in scored]) for by in ("sum", "mean")}
        summary |= {key: mean([s.extra[key] for s in scored]) for key in ("margin_sum", "margin_mean")}
        return ProbeScores(self.name, "accuracy", "binary", True, tuple(scored), self.side, summary)
