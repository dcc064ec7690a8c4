"""Compare models item by item: what training gained on the target, what it kept of the rest, and how sure that is.

Every probe scores the same items before and after. The items are joined by id; for each probe the ledger holds which were gained, kept, lost and
never right, the change with an interval that covers what it says (`stats`), the p value adjusted for all comparisons of the call, and the smallest
change these items could have shown (`power`). Items lost are named with what both models said, because a mean that stays the same can hide them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tempering.errors import UserError
from tempering.ledger_types import GateResult, ItemChange, Ledger, ProbeChange, Verdict
from tempering.stats import Interval, holm, mcnemar, mean_interval, paired_share_interval, paired_t, share_interval

if TYPE_CHECKING:
    from tempering.types import ItemScore, ProbeScores, Scores

__all__ = ["GateResult", "Interval", "ItemChange", "Ledger", "ProbeChange", "compare", "compare_many"]

RESERVED = ("keep", "gain", "kl")
LOW_HEADROOM, HIGH_HEADROOM = 0.15, 0.85
PROMPT_LIMIT, OUTPUT_LIMIT = 20_000, 4_000
"""Characters of an item kept in the ledger. Prompts are kept longer because lost items are trained on again."""
LOST_TEXTS, GAINED_TEXTS = 1_000, 100
"""Items per probe kept with their texts."""
ROUNDING = 1e-6
"""Relative size below which a change of a continuous score is rounding: float32 passes laid out differently differ by that much."""


def compare(
    before: Scores,
    after: Scores,
    *,
    alpha: float = 0.05,
    cost: Mapping[str, float] | None = None,
    kl: Mapping[str, float] | None = None,
    simultaneous: bool = False,
) -> Ledger:
    """The ledger of one model against the one it was made from.

    Args:
        before, after: scores of the same probes on the same items, in any order.
        alpha: intervals cover 1 - alpha; a change counts as seen if its adjusted p is at most alpha.
        cost: what training took: {"tokens", "seconds", "peak_memory_gib"}.
        kl: what `measure.kl_from` returns: {"kl_per_token", "low", "high", "tokens"}.
        simultaneous: widen the intervals of all probes so that together they cover 1 - alpha (Bonferroni).
    Raises:
        UserError: probes or items missing on one side, duplicate ids, scores that are not numbers, or probes that changed their meaning.
    """
    return _ledgers(before, [after], alpha, simultaneous, [cost or {}], [kl or {}])[0]


def compare_many(before: Scores, others: Sequence[Scores], *, alpha: float = 0.05, simultaneous: bool = False) -> tuple[Ledger, ...]:
    """One ledger for each of `others` against the same base, with one multiplicity control over all probes and models."""
    none: list[Mapping[str, float]] = [{}] * len(others)
    return _ledgers(before, others, alpha, simultaneous, none, none)


def _ledgers(
    before: Scores,
    others: Sequence[Scores],
    alpha: float,
    simultaneous: bool,
    costs: Sequence[Mapping[str, float]],
    kls: Sequence[Mapping[str, float]],
) -> tuple[Ledger, ...]:
    if not 0.0 < alpha < 0.5:
        raise UserError(f"alpha is {alpha}; expected a number between 0 and 0.5, usually 0.05.")
    pairs = [_pair_probes(before, after) for after in others]
    comparisons = sum(len(pair) for pair in pairs)
    level = 1 - (alpha / comparisons if simultaneous and comparisons else alpha)
    joined = [[(a, b, _join(a, b, before.model, after.model)) for a, b in pair] for pair, after in zip(pairs, others, strict=True)]
    p_values = [_p(a, items) for model in joined for a, _, items in model]
    adjusted = iter(zip(p_values, holm(p_values), strict=True))
    found = []
    for after, model, cost, kl in zip(others, joined, costs, kls, strict=True):
        probes = tuple(_change(a, b, items, level, alpha, comparisons, *next(adjusted)) for a, b, items in model)
        gain, gain_on = _gain(probes, level)
        keep = [probe for probe in probes if probe.side == "keep" and probe.kind == "binary"]
        kept, lost = sum(len(p.kept_ids) for p in keep), sum(len(p.lost_ids) for p in keep)
        share = share_interval(kept, kept + lost, level=1 - alpha, method="one-sided") if kept + lost else None
        numbers = [{k: float(v) for k, v in m.items() if isinstance(v, int | float) and math.isfinite(v)} for m in (kl, cost)]
        found.append(Ledger(before.model, after.model, alpha, comparisons, probes, gain, gain_on, share, kept + lost, numbers[0], numbers[1]))
    return tuple(found)


# --------------------------------------------------------------------------------------------------------------------------- joining and checks

Items = list[tuple["ItemScore", "ItemScore"]]


def _pair_probes(before: Scores, after: Scores) -> list[tuple[ProbeScores, ProbeScores]]:
    sides = []
    for scores in (before, after):
        by_name = {probe.probe: probe for probe in scores.probes}
        repeated = sorted(name for name, count in Counter(probe.probe for probe in scores.probes).items() if count > 1)
        if repeated:
            raise UserError(f"model {scores.model!r} has more than one probe named {_names(repeated)}; give every probe its own name.")
        reserved = sorted(by_name.keys() & set(RESERVED))
        if reserved:
            raise UserError(f"a probe is named {_names(reserved)}, which gates use for the whole ledger; give the probe another name.")
        sides.append(by_name)
    first, second = sides
    for missing, where in ((first.keys() - second.keys(), after.model), (second.keys() - first.keys(), before.model)):
        if missing:
            raise UserError(f"model {where!r} was not measured with probe {_names(sorted(missing))}; measure both models with the same probes.")
    for name, a in first.items():
        for field in ("metric", "kind", "side", "higher_is_better"):
            one, two = getattr(a, field), getattr(second[name], field)
            if one != two:
                raise UserError(f"probe {name!r} has {field} {one!r} before and {two!r} after; measure both models with the same probe.")
    return [(a, second[name]) for name, a in first.items()]


def _join(a: ProbeScores, b: ProbeScores, before: str, after: str) -> Items:
    if not a.items:
        raise UserError(f"probe {a.probe!r} has no items; give it at least one, or leave the probe out.")
    by_id = []
    for probe, model in ((a, before), (b, after)):
        found = {item.id: item for item in probe.items}
        counts = Counter(item.id for item in probe.items)
        repeated = sorted(id for id, count in counts.items() if count > 1)
        if repeated:
            raise UserError(f"probe {probe.probe!r} on model {model!r} has more than one item with id {_names(repeated)}; ids must be unique.")
        by_id.append(found)
        for item in probe.items:
            _check(item, probe, model)
    first, second = by_id
    for missing, model in ((first.keys() - second.keys(), after), (second.keys() - first.keys(), before)):
        if missing:
            raise UserError(
                f"probe {a.probe!r} on model {model!r} lacks {len(missing)} item(s) that the other model has: {_names(sorted(missing))}; "
                "measure both models on the same items."
            )
    for id, item in first.items():
        if item.expected != second[id].expected:
            raise UserError(
                f"probe {a.probe!r} item {id!r} expects {_short(item.expected)} before and {_short(second[id].expected)} after; "
                "the two are different items, measure both models on the same ones."
            )
    return [(item, second[id]) for id, item in first.items()]


def _check(item: ItemScore, probe: ProbeScores, model: str) -> None:
    where = f"probe {probe.probe!r} item {item.id!r} on model {model!r} has score {item.score}"
    if not math.isfinite(item.score):
        raise UserError(f"{where}; expected a finite number: the model gives none there, did its training diverge?")
    if probe.kind == "binary" and item.score not in (0, 1):
        raise UserError(f"{where}; a binary probe's scores are 0 or 1, use kind 'continuous' for others.")


def _names(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more


def _short(text: str, most: int = 40) -> str:
    return repr(text if len(text) <= most else text[: most - 1] + "…")


# ------------------------------------------------------------------------------------------------------------------------------------- one probe


def _differences(items: Items) -> list[float]:
    size = max(max(abs(a.score), abs(b.score)) for a, b in items)
    return [d if abs(d) > ROUNDING * size else 0.0 for d in (b.score - a.score for a, b in items)]


def _p(probe: ProbeScores, items: Items) -> float:
    if probe.kind == "continuous":
        return paired_t(_differences(items))
    return mcnemar(sum(b.score > a.score for a, b in items), sum(b.score < a.score for a, b in items))


def _change(a: ProbeScores, b: ProbeScores, items: Items, level: float, alpha: float, comparisons: int, p: float, p_adjusted: float) -> ProbeChange:
    measured = _binary if a.kind == "binary" else _continuous
    difference, before, after, mde, outcome, rule, test = measured(a, items, level, alpha / comparisons)
    verdict: Verdict = "no change detected"
    if p_adjusted <= alpha:
        up = (difference.point > 0) == (a.higher_is_better is not False)
        verdict = "changed" if a.higher_is_better is None else "gained" if up else "lost"
    by = {word: [pair for pair, found in zip(items, outcome, strict=True) if found == word] for word in ("gained", "kept", "lost", "never")}
    ids = {f"{word}_ids": tuple(first.id for first, _ in pairs) for word, pairs in by.items()}
    keep = None
    if a.kind == "binary" and by["kept"] + by["lost"]:
        keep = share_interval(len(by["kept"]), len(by["kept"]) + len(by["lost"]), level=1 - alpha, method="one-sided")
    notes = [note for note in dict.fromkeys((a.note, b.note, difference.note)) if note]
    if difference.excludes(0.0) and verdict == "no change detected":
        notes.append("the interval alone leaves out 0, the adjusted test does not reject it: call it undecided")
    return ProbeChange(
        name=a.probe,
        side=a.side,
        kind=a.kind,
        metric=a.metric,
        higher_is_better=a.higher_is_better,
        n=len(items),
        before=before,
        after=after,
        difference=difference,
        p=p,
        test=test,
        p_adjusted=p_adjusted,
        verdict=verdict,
        mde=mde,
        **ids,
        gained=tuple(_texts(first, second) for first, second in by["gained"][:GAINED_TEXTS]),
        lost=tuple(_texts(first, second) for first, second in by["lost"][:LOST_TEXTS]),
        keep=keep,
        item_rule=rule,
        headroom=_headroom(before.point, a.side) if a.kind == "binary" else "",
        summary={key: (_finite(a.summary.get(key)), _finite(b.summary.get(key))) for key in sorted(a.summary.keys() | b.summary.keys())},
        notes=tuple(notes),
    )


Measured = tuple[Interval, Interval, Interval, float | None, list[str], str, str]


def _binary(probe: ProbeScores, items: Items, level: float, alpha: float) -> Measured:
    from tempering.power import binary_mde

    n = len(items)
    rose = sum(b.score > a.score for a, b in items)
    fell = sum(b.score < a.score for a, b in items)
    right = 0 if probe.higher_is_better is False else 1
    words = {(False, True): "gained", (True, True): "kept", (True, False): "lost", (False, False): "never"}
    outcome = [words[a.score == right, b.score == right] for a, b in items]
    return (
        paired_share_interval(rose, fell, n, level=level),
        share_interval(sum(a.score == 1 for a, _ in items), n, level=level),
        share_interval(sum(b.score == 1 for _, b in items), n, level=level),
        binary_mde(n, (rose + fell) / n, alpha=alpha),
        outcome,
        f"an item is right if its score is {right}",
        "exact McNemar",
    )


def _continuous(probe: ProbeScores, items: Items, level: float, alpha: float) -> Measured:
    import numpy as np

    from tempering.power import mean_mde

    differences = _differences(items)
    before = [a.score for a, _ in items]
    spread = float(np.std(before, ddof=1)) if len(items) > 1 else 0.0
    tolerance = spread / 2
    direction = {True: 1, False: -1, None: 0}[probe.higher_is_better]
    outcome = ["kept" if not direction or abs(d) <= tolerance else "gained" if d * direction > 0 else "lost" for d in differences]
    rule = f"an item is gained or lost if its score moves by more than {tolerance:.3g}, half the spread of the items before"
    deviation = float(np.std(differences, ddof=1)) if len(items) > 1 else 0.0
    return (
        mean_interval(differences, level=level),
        mean_interval(before, level=level),
        mean_interval([b.score for _, b in items], level=level),
        mean_mde(len(items), deviation, alpha=alpha),
        outcome,
        rule if direction else "neither direction is better, so no item is gained or lost",
        "paired t",
    )


def _headroom(share: float, side: str) -> str:
    """A target that starts near 0 has all the room it needs: only what should stay must be able to fall."""
    if LOW_HEADROOM <= share <= HIGH_HEADROOM or (side == "target" and share < LOW_HEADROOM):
        return ""
    where = f"base score {share:.2f} lies outside {LOW_HEADROOM} to {HIGH_HEADROOM}"
    return f"little headroom: {where}, so a change {'down' if share < LOW_HEADROOM else 'up'} can hardly show"


def _texts(first: ItemScore, second: ItemScore) -> ItemChange:
    cut = len(first.prompt) > PROMPT_LIMIT or len(first.expected) > PROMPT_LIMIT
    return ItemChange(
        id=first.id,
        prompt=first.prompt[:PROMPT_LIMIT],
        expected=first.expected[:PROMPT_LIMIT],
        before_output=first.output[:OUTPUT_LIMIT],
        after_output=second.output[:OUTPUT_LIMIT],
        before_score=float(first.score),
        after_score=float(second.score),
        cut=cut,
    )


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _gain(probes: Sequence[ProbeChange], level: float) -> tuple[Interval | None, str]:
    """Binary target probes pool their items, each item counting once; continuous ones have units of their own and cannot be pooled.
    Where neither direction is better there is no gain."""
    targets = [probe for probe in probes if probe.side == "target" and probe.higher_is_better is not None]
    binary = [probe for probe in targets if probe.kind == "binary"]
    if len(binary) > 1:
        gained, lost = sum(len(p.gained_ids) for p in binary), sum(len(p.lost_ids) for p in binary)
        return paired_share_interval(gained, lost, sum(p.n for p in binary), level=level), f"{len(binary)} target probes"
    for only in (binary, targets):
        if len(only) == 1:
            return only[0].improvement, only[0].name
    return None, ""
