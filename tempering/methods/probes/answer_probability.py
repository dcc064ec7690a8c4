"""Answer probability (TOFU; Maini et al. 2024, arXiv:2401.06121): P(a|q)^(1/|a|) of the taught answer, so that length does not matter.

Where items have wrong answers and `choices` is on, as TOFU has it for real authors and world facts, it is the true answer's share of the probability
of all answers to choose from. The released code takes length-normalised probabilities there too (`per="token"`, the default here); `per="answer"`
takes those of whole answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from tempering.errors import UserError
from tempering.items import ProbeValue, read_items
from tempering.methods.probes._answers import AnswersItem, log_likelihoods, shown
from tempering.types import ItemScore, Policy, ProbeScores

CATALOGUE = ("S092",)


def share(logps: Sequence[float]) -> float:
    """The first of these probabilities (as logarithms) over the sum of all."""
    return 1 / math.fsum(math.exp(min(700.0, logp - logps[0])) for logp in logps)


class AnswerProbability(ProbeValue):
    """Probability of the answer, to the power of 1 / its tokens. On the side of what is to go, less is better."""

    kind: Literal["answer_probability"] = "answer_probability"
    name: str = "answer probability"
    items: str | tuple[AnswersItem, ...]
    """A JSON-lines file or items ({"prompt", "answer", and with `choices` "wrong"})."""
    choices: bool = False
    """Normalised over the answer and the wrong ones."""
    per: Literal["token", "answer"] = "token"
    """Of choices: probabilities per token, or of whole answers."""
    ended: bool = True
    """The end of the answer counts as one of its tokens."""

    def __call__(self, policy: Policy) -> ProbeScores:
        items = read_items(self.items, AnswersItem, self.limit)
        if self.choices and (bare := next((item for item in items if not item.wrong), None)):
            raise UserError(f"item '{bare.id}': field 'wrong' is empty, there is nothing to choose from: give wrong answers or leave choices off")
        texts = [(item.answer, *item.wrong) if self.choices else (item.answer,) for item in items]
        scored = []
        for item, found in zip(items, log_likelihoods(policy, items, texts, self.chat, ended=self.ended), strict=True):
            per_token = [logp / tokens for logp, tokens in found]
            asked = [logp for logp, _ in found] if self.per == "answer" else per_token
            score = share(asked) if self.choices else math.exp(per_token[0])
            numbers = {"logp": found[0][0], "tokens": float(found[0][1])}
            scored.append(ItemScore(item.id, score, shown(item.prompt), "", item.answer, numbers))
        return ProbeScores(self.name, "probability", "continuous", self.side == "keep", tuple(scored), self.side)
