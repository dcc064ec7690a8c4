"""Membership inference: can texts that a model was trained on be told from texts like them that it never saw?

Each attack gives a text a score, higher for "was trained on": `loss`, the mean log-probability of its tokens (Yeom et al. 2018); `zlib`, that over
the text's compressed size (Carlini et al. 2021); `min_k`, the mean over the k% least likely tokens (Shi et al. 2024, arXiv:2310.16789; MUSE takes
k = 40%); `min_k_plus_plus`, the same of (log p - mean) / deviation over the vocabulary (Zhang et al. 2024, arXiv:2404.02936); `reference`, the mean
log-probability less that of a model that saw neither (Carlini et al. 2021 divide instead). With shadow models: `lira`.

An attack is told as AUC (0.5: members and others cannot be told apart; far below is a trace as well) and as the true-positive rate at 1% false
positives. An item's score is its share of AUC: for a member the share of others below it, for another text the share of members above it, ties
half. Their mean is the AUC exactly, so the ledger compares attacks item by item. One pass over the model serves all attacks.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from tempering.errors import UserError
from tempering.items import Item, ProbeValue, mean, read_items
from tempering.methods.probes._answers import Prompt, asked_ids, said_ids, shown
from tempering.types import ItemScore, Policy, ProbeScores

CATALOGUE = ("S144",)
Statistic = Literal["loss", "zlib", "min_k", "min_k_plus_plus", "reference"]
FALSE_POSITIVES = 0.01


class MembershipItem(Item):
    """A text, or an answer to a prompt."""

    text: str
    prompt: Prompt = ""
    """What stands before it and is not scored; empty for plain texts, whose first token is then not scored either."""


def lowest(values: Sequence[float], share: float) -> float:
    """Mean of the lowest `share` of the values, at least one of them (Min-K%); of 1 the mean of all."""
    return mean(sorted(values)[: max(1, int(len(values) * share))])


def standardised(logps: Sequence[float], means: Sequence[float], deviations: Sequence[float]) -> list[float]:
    """(log p - mean) / deviation of each token (Min-K%++); a deviation below 0.001 counts as that, as in OpenUnlearning."""
    return [(x - m) / max(d, 1e-3) for x, m, d in zip(logps, means, deviations, strict=True)]


def compressed(text: str) -> int:
    """Bytes of the text after zlib: how much there is to remember in it."""
    return len(zlib.compress(text.encode()))


def placements(members: Sequence[float], others: Sequence[float]) -> tuple[list[float], list[float]]:
    """(for each member the share of others below it, for each other the share of members above it), ties half; the mean of either is the AUC."""
    low, high = sorted(others), sorted(members)
    of_members = [(bisect_left(low, x) + bisect_right(low, x)) / (2 * len(low)) for x in members]
    of_others = [1 - (bisect_left(high, x) + bisect_right(high, x)) / (2 * len(high)) for x in others]
    return of_members, of_others


def auc(members: Sequence[float], others: Sequence[float]) -> float:
    """P(a member's score > another's) + P(equal) / 2."""
    return mean(placements(members, others)[0])


def tpr_at_fpr(members: Sequence[float], others: Sequence[float], fpr: float = FALSE_POSITIVES) -> float:
    """The largest share of members above a threshold that at most `fpr` of the others are above of. With fewer than 1 / `fpr` others no false
    positive is allowed."""
    allowed = int(fpr * len(others) + 1e-9)
    if allowed >= len(others):
        return 1.0
    threshold = sorted(others, reverse=True)[allowed]
    return mean([float(x > threshold) for x in members])


def told(scores: ProbeScores, statistic: str, name: str) -> ProbeScores:
    """The probe's scores by one statistic of its items."""
    inside = [item.extra[statistic] for item in scores.items if item.extra["member"]]
    outside = [item.extra[statistic] for item in scores.items if not item.extra["member"]]
    of_members, of_others = map(iter, placements(inside, outside))
    items = tuple(dataclasses.replace(item, score=next(of_members if item.extra["member"] else of_others)) for item in scores.items)
    summary = {"auc": auc(inside, outside), "tpr_at_1_fpr": tpr_at_fpr(inside, outside)}
    return dataclasses.replace(scores, probe=name, items=items, summary=summary)


class Membership(ProbeValue):
    """AUC of telling members from others. Less is better: towards 0.5, where it would be had the model never seen them."""

    kind: Literal["membership"] = "membership"
    name: str = "membership"
    side: Literal["target", "keep"] = "target"
    items: str | tuple[MembershipItem, ...]
    """Members: a JSON-lines file or items ({"text"}, also {"prompt", "text"})."""
    others: str | tuple[MembershipItem, ...]
    """Texts of the same kind that were never trained on."""
    statistic: Statistic = "min_k"
    """The attack that goes by the probe's name; the others are told beside it as NAME.loss and so on."""
    k: float = Field(default=0.2, gt=0, le=1)
    """Share of tokens that Min-K% and Min-K%++ look at."""
    reference: Any = None
    """A policy that saw neither; without one there is no `reference` attack."""
    max_tokens: int = Field(default=1024, gt=1)
    """Longer texts are cut here."""

    def __call__(self, policy: Policy) -> ProbeScores:
        if self.statistic == "reference" and self.reference is None:
            raise UserError("membership: statistic 'reference' needs a reference model, give one or choose another statistic")
        members, others = (read_items(source, MembershipItem, self.limit) for source in (self.items, self.others))
        if both := {item.id for item in members} & {item.id for item in others}:
            raise UserError(f"membership: item '{min(both)}' is a member and not one; ids of the two lists must differ")
        items = (*members, *others)
        found = self._statistics(policy, items)
        scored = tuple(
            ItemScore(item.id, 0.0, shown(item.prompt), "", item.text, {"member": float(i < len(members)), **numbers})
            for i, (item, numbers) in enumerate(zip(items, found, strict=True))
        )
        note = f"{len(others)} others: a false-positive rate of 1% allows none of them" if len(others) < 1 / FALSE_POSITIVES else ""
        raw = ProbeScores(self.name, "AUC", "continuous", False, scored, self.side, {}, note)
        return told(raw, self.statistic, self.name)

    def derived(self, scores: ProbeScores) -> tuple[ProbeScores, ...]:
        """The other attacks, from the same pass."""
        names = [name for name in scores.items[0].extra if name not in ("member", self.statistic)]
        return tuple(told(scores, name, f"{self.name}.{name}") for name in names)

    def _statistics(self, policy: Policy, items: Sequence[MembershipItem]) -> list[dict[str, float]]:
        from tempering.measure import logps_and_moments, logps_of

        pairs = self._pairs(policy, items)
        found = []
        for item, (logp, mu, sigma) in zip(items, logps_and_moments(policy, pairs), strict=True):
            logps = logp.double().tolist()
            loss = math.fsum(logps) / len(logps)
            plus = standardised(logps, mu.double().tolist(), sigma.double().tolist())
            numbers = {"loss": loss, "zlib": loss / compressed(item.text), "min_k": lowest(logps, self.k), "min_k_plus_plus": lowest(plus, self.k)}
            found.append(numbers)
        if self.reference is not None:
            for numbers, logp in zip(found, logps_of(self.reference, self._pairs(self.reference, items)), strict=True):
                numbers["reference"] = numbers["loss"] - float(logp.double().mean())
        return found

    def _pairs(self, policy: Policy, items: Sequence[MembershipItem]) -> list[tuple[Sequence[int], Sequence[int]]]:
        pairs: list[tuple[Sequence[int], Sequence[int]]] = []
        for item in items:
            if item.prompt:
                ids = said_ids(policy, item.prompt, item.text, self.chat, ended=False)[: self.max_tokens]
                pairs.append((asked_ids(policy, item.prompt, self.chat), ids))
                continue
            whole = list(policy.tokenizer(item.text)["input_ids"])[: self.max_tokens]
            if len(whole) < 2:
                raise UserError(f"item '{item.id}': a text of at least two tokens is needed, '{item.text}' has {len(whole)}")
            pairs.append((whole[:1], whole[1:]))
        return pairs
