"""Truth ratio (TOFU; Maini et al. 2024, arXiv:2401.06121): does the model still find the true answer likelier than false ones of the same form?

R = mean over wrong answers w of P(w|q)^(1/|w|), divided by P(t|q)^(1/|t|) of the true answer t in other words than the taught ones. A model that
knows has R far below 1; one that knows nothing has R near 1, a uniform one exactly 1 whatever the lengths. An item's score is what the paper
averages: on what is to go (side "target") min(R, 1/R), on what is to stay max(0, 1 - R); both up is better. R itself stays in `extra["ratio"]`, and
the forget quality (`forgetting.tofu`) is taken from it.

The paper's mean is arithmetic. OpenUnlearning averages the wrong answers' losses instead, a geometric mean: `mean="geometric"`. (TOFU's own code
takes the first for its table and the second for its forget quality.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from tempering.errors import UserError
from tempering.items import ProbeValue, mean, read_items
from tempering.methods.probes._answers import AnswersItem, exp, log_likelihoods, shown
from tempering.types import ItemScore, Policy, ProbeScores

CATALOGUE = ("S092",)


def ratio(true: float, wrong: Sequence[float], how: Literal["arithmetic", "geometric"] = "arithmetic") -> float:
    """R of one question.

    Args:
        true: log-probability per token of the true answer in other words.
        wrong: log-probability per token of each wrong answer.
    """
    if how == "geometric":
        return exp(math.fsum(wrong) / len(wrong) - true)
    return math.fsum(exp(w - true) for w in wrong) / len(wrong)


def closeness(r: float) -> float:
    """min(R, 1/R): 1 where true and false are equally likely."""
    return min(r, 1 / r) if r > 0 else 0.0


class TruthRatio(ProbeValue):
    """How much likelier false answers are than the true one; see the file for the score of each side."""

    kind: Literal["truth_ratio"] = "truth_ratio"
    name: str = "truth ratio"
    items: str | tuple[AnswersItem, ...]
    """A JSON-lines file or items ({"prompt", "answer", "paraphrase", "wrong"})."""
    mean: Literal["arithmetic", "geometric"] = "arithmetic"
    """Over wrong answers: the paper's, or OpenUnlearning's."""
    ended: bool = True
    """The end of the answer counts as one of its tokens."""

    def __call__(self, policy: Policy) -> ProbeScores:
        items = read_items(self.items, AnswersItem, self.limit)
        if bare := next((item for item in items if not item.wrong), None):
            raise UserError(f"item '{bare.id}': field 'wrong' is empty, a truth ratio needs at least one wrong answer")
        texts = [(item.paraphrase or item.answer, *item.wrong) for item in items]
        scored = []
        for item, found in zip(items, log_likelihoods(policy, items, texts, self.chat, ended=self.ended), strict=True):
            true, *wrong = (logp / tokens for logp, tokens in found)
            r = ratio(true, wrong, self.mean)
            score = closeness(r) if self.side == "target" else max(0.0, 1 - r)
            numbers = {"ratio": r, "true": true, **{f"wrong.{i}": w for i, w in enumerate(wrong)}}
            scored.append(ItemScore(item.id, score, shown(item.prompt), "", item.paraphrase or item.answer, numbers))
        metric = "truth ratio, nearness to 1" if self.side == "target" else "1 - truth ratio"
        summary = {"ratio": mean([s.extra["ratio"] for s in scored])}
        return ProbeScores(self.name, metric, "continuous", True, tuple(scored), self.side, summary)
