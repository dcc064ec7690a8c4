"""Token accuracy: how many tokens of an answer are what the model finds likeliest there, with the question and the true tokens before them given.

KnowUnDo (Tian et al. 2024, S011, arXiv:2407.01920) measures what is left of an answer so, averaged over answers: unlearning succeeded as far as it is
low on what goes, retention as far as it is high on what stays. Their code counts the tokens of the answer alone; so does this, without the end of the
turn unless `ended`.
"""

from __future__ import annotations

from typing import Literal

from tempering.items import ProbeValue, read_items
from tempering.methods.probes._answers import AnswersItem, asked_ids, said_ids, shown
from tempering.types import ItemScore, Policy, ProbeScores

CATALOGUE = ("S011",)


class TokenAccuracy(ProbeValue):
    """Share of an answer's tokens that are the likeliest. On the side of what is to go, less is better."""

    kind: Literal["token_accuracy"] = "token_accuracy"
    name: str = "token accuracy"
    items: str | tuple[AnswersItem, ...]
    """A JSON-lines file or items ({"prompt", "answer"})."""
    ended: bool = False
    """The end of the answer counts as one of its tokens."""

    def __call__(self, policy: Policy) -> ProbeScores:
        from tempering.measure import score_pairs

        items = read_items(self.items, AnswersItem, self.limit)
        pairs = [
            (asked_ids(policy, item.prompt, self.chat), said_ids(policy, item.prompt, item.answer, self.chat, ended=self.ended)) for item in items
        ]
        scored = [
            ItemScore(item.id, float(top_T.double().mean()), shown(item.prompt), "", item.answer, {"tokens": float(len(top_T))})
            for item, (_, top_T) in zip(items, score_pairs(policy, pairs), strict=True)
        ]
        return ProbeScores(self.name, "token accuracy", "continuous", self.side == "keep", tuple(scored), self.side)
