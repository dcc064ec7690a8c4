"""Membership inference: can texts that a model was trained on be told from texts like them that it never saw?

Each attack gives a text a score, higher for "was trained on": `loss`, the mean log-probability of its tokens (Yeom et al. 2018); `zlib`, that over
the text's compressed size (Carlini et al. 2021); `min_k`, the mean over the k% least likely tokens (Shi et al. 2024, arXiv:2310.16789; MUSE takes
k = 40%); `min_k_plus_plus`, the same of (log p - mean) / deviation over the vocabulary (Zhang et al. 2024, arXiv:2404.02936); `reference`, the mean
log-probability less that of a model that saw neither (Carlini et al. 2021 divide instead); and LiRA, from the scores of shadow models (`lira`;
Carlini et al. 2022, arXiv:2112.03570; for tools S200).

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

import numpy as np
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


def lira(scores: Sequence[float], shadows: Any, was_in: Any, variance: Literal["pooled", "each"] = "pooled") -> list[float]:
    """Likelihood-ratio attack: log N(score; in) - log N(score; out) of each point, Gaussians fitted to the shadow models that saw it and those that
    did not. A point that no shadow model saw gets the offline score, log P(an unseen model's score is below it). Identical shadows in and out give 0.

    Args:
        scores: [N] of the attacked model.
        shadows: [S, N] the same score of each shadow model.
        was_in: [S, N] whether it was trained on the point.
        variance: one for all points (steady with few shadow models), or each point's own.

    Raises:
        UserError: shapes differ, or a point is seen by every shadow model.
    """
    from scipy import stats

    x_N, x_SN, in_SN = np.asarray(scores, dtype=np.float64), np.asarray(shadows, dtype=np.float64), np.asarray(was_in, dtype=bool)
    if x_SN.shape != in_SN.shape or x_SN.ndim != 2 or x_SN.shape[1:] != x_N.shape:
        raise UserError(f"LiRA: {x_N.shape} scores, shadow scores {x_SN.shape}, membership {in_SN.shape}: give [N], [S, N] and [S, N]")
    if in_SN.all(0).any():
        raise UserError(f"LiRA: point {int(in_SN.all(0).argmax())} was seen by every shadow model, at least one must not have seen it")

    def fitted(mask_SN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count_N = mask_SN.sum(0)
        mean_N = np.where(mask_SN, x_SN, 0).sum(0) / np.maximum(count_N, 1)
        square_SN = np.where(mask_SN, (x_SN - mean_N) ** 2, 0)
        var_N = square_SN.sum(0) / np.maximum(count_N, 1)
        if variance == "pooled":
            var_N = np.full_like(var_N, square_SN.sum() / max(1, mask_SN.sum()))
        return mean_N, np.sqrt(np.maximum(var_N, 1e-12))

    (in_N, in_sd_N), (out_N, out_sd_N) = fitted(in_SN), fitted(~in_SN)
    online_N = stats.norm.logpdf(x_N, in_N, in_sd_N) - stats.norm.logpdf(x_N, out_N, out_sd_N)
    return np.where(in_SN.any(0), online_N, stats.norm.logcdf(x_N, out_N, out_sd_N)).tolist()


def shadow_scores(scores: ProbeScores, shadows: Sequence[ProbeScores], was_in: Any, statistic: Statistic = "loss") -> ProbeScores:
    """LiRA from one probe's scores on the attacked model and on shadow models; members are those of the attacked model's probe.

    Args:
        was_in: [S, N] whether shadow model s was trained on item n, in the order of the items.

    Raises:
        UserError: shadow models were asked about other items.
    """
    ids = [item.id for item in scores.items]
    if any([item.id for item in shadow.items] != ids for shadow in shadows):
        raise UserError("LiRA: shadow models must be asked about the same items in the same order")
    x = [item.extra[statistic] for item in scores.items]
    found = lira(x, [[item.extra[statistic] for item in shadow.items] for shadow in shadows], was_in)
    items = [
        dataclasses.replace(item, extra={"member": item.extra["member"], "lira": value}) for item, value in zip(scores.items, found, strict=True)
    ]
    return _told(dataclasses.replace(scores, items=tuple(items), summary={}), "lira", f"{scores.probe}.lira")


def _told(scores: ProbeScores, statistic: str, name: str) -> ProbeScores:
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
        return _told(raw, self.statistic, self.name)

    def derived(self, scores: ProbeScores) -> tuple[ProbeScores, ...]:
        """The other attacks, from the same pass."""
        names = [name for name in scores.items[0].extra if name not in ("member", self.statistic)]
        return tuple(_told(scores, name, f"{self.name}.{name}") for name in names)

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
