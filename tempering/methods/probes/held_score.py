"""Held-out rows by the loss's own score: what it logs of them. For DPO that is the difference of log-ratios, for a reward model of rewards.

Pairs ("margin"): is the chosen answer's score the higher one? Labelled answers ("reward"): is a desirable answer's above an undesirable one's? Each
answer is in one comparison at most, with one of its own row where there is one, so that items are independent; the area under the ROC curve
(Hanley & McNeil 1982), which compares all with all, is in the summary. Ranked answers ("value"): which share of a prompt's ordered pairs is right?
Labels of steps and classes ("accuracy"): which share of an answer's does the loss's head tell? A tie counts half: relative to itself a model prefers
nothing, so where a loss asks for a reference, the score before training is 0.5.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from tempering.errors import UserError
from tempering.items import ProbeValue, mean
from tempering.types import ItemScore, Policy, ProbeScores, Row, Segment


class HeldScore(ProbeValue):
    """Share of held comparisons that the loss's own score decides rightly."""

    kind: Literal["held_score"] = "held_score"
    name: str = "held_score"
    side: Literal["target", "keep"] = "target"
    logs: Literal["margin", "reward", "value", "accuracy"]
    """The name that the objective logs its score under, and so what is compared."""
    objective: Any
    """An `Objective` with that log, one number for each segment of its part."""
    rows: Any
    """A sequence of rows (`types.Row`) with what the objective asks for."""
    training: Any
    """A `config.Training`: the precision and the size of a micro-batch."""
    start: bool = False
    """The policy is its own reference: log-ratios are 0 and rounding is not to be asked."""

    members: Any = ()
    """Policies of reward models whose scores of an answer count as one, instead of the policy's own; `objective` is then `scored.Rewards()`."""
    combine: Any = None
    """What makes the members' scores [members, N] one [N]."""

    def __call__(self, policy: Policy) -> ProbeScores:
        from tempering.scored import scored

        size = len(self.rows)
        count = size if self.limit is None else min(self.limit, size)
        rows = [self.rows[i * size // count] for i in range(count)]
        asks = any("reference.logp" in names for names in self.objective.needs.values())
        if self.start and asks:
            found = [[0.0] * len(row[self.objective.part]) for row in rows]
        elif self.members:
            sides = [[scored(member, self.objective, rows, self.training, side) for member in self.members] for side in ("chosen", "rejected")]
            chosen_N, rejected_N = (self.combine(np.array(side)[..., 0]) for side in sides)
            found = (chosen_N - rejected_N)[:, None].tolist()
        else:
            found = scored(policy, self.objective, rows, self.training, self.logs)
        how = {"margin": self._pairs, "reward": self._labels, "value": self._lists, "accuracy": self._rights}
        return how[self.logs](policy, rows, found)

    def _pairs(self, policy: Policy, rows: list[Row], found: list[list[float]]) -> ProbeScores:
        margins = [margin for (margin,) in found]
        items = []
        for i, (row, margin) in enumerate(zip(rows, margins, strict=True)):
            taken = row["chosen" if margin > 0 else "rejected"][0]
            items.append(_item(f"pair:{i}", [margin], policy, row["chosen"][0], taken, {"margin": margin}))
        return self._scores("accuracy, ties half", items, {"margin": mean(margins)})

    def _rights(self, policy: Policy, rows: list[Row], found: list[list[float]]) -> ProbeScores:
        items = []
        for i, (row, rights) in enumerate(zip(rows, found, strict=True)):
            for j, (segment, right) in enumerate(zip(row[self.objective.part], rights, strict=True)):
                text = policy.tokenizer.decode(segment.ids, skip_special_tokens=True)
                items.append(ItemScore(f"answer:{i}.{j}", right, text))
        return self._scores("accuracy", items, {})

    def _lists(self, policy: Policy, rows: list[Row], found: list[list[float]]) -> ProbeScores:
        items = []
        for i, (row, values) in enumerate(zip(rows, found, strict=True)):
            if gaps := ordered(row["responses"], values):
                best = max(row["responses"], key=lambda s: float(s.extras["score"]))
                taken = row["responses"][int(np.argmax(values))]
                items.append(_item(f"prompt:{i}", gaps, policy, best, taken, {"pairs": float(len(gaps))}))
        if not items:
            raise UserError("held-out rows: all scores of a prompt are equal, so there is no order to measure; give held-out rows by --test")
        return self._scores("ordered pairs, ties half", items, {})

    def _labels(self, policy: Policy, rows: list[Row], found: list[list[float]]) -> ProbeScores:
        paired = [(i, *one) for i, (row, values) in enumerate(zip(rows, found, strict=True)) for one in zip(row["train"], values, strict=True)]
        good, bad = ([one for one in paired if (float(one[1].extras["label"]) > 0) is wanted] for wanted in (True, False))
        items = []
        for a, b in match([row for row, _, _ in good], [row for row, _, _ in bad]):
            gap = good[a][2] - bad[b][2]
            items.append(_item(f"answers:{a}", [gap], policy, good[a][1], (good[a] if gap > 0 else bad[b])[1], {"gap": gap}))
        return self._scores("desirable above undesirable, ties half", items, {"auroc": area([one[2] for one in good], [one[2] for one in bad])})

    def _scores(self, metric: str, items: list[ItemScore], summary: dict[str, float]) -> ProbeScores:
        return ProbeScores(self.name, metric, "continuous", True, tuple(items), self.side, summary)


def _item(name: str, gaps: list[float], policy: Policy, best: Segment, taken: Segment, extra: dict[str, float]) -> ItemScore:
    starts = [int(np.flatnonzero(s.weight)[0]) for s in (best, taken)]
    expected, output = (policy.tokenizer.decode(s.ids[at:], skip_special_tokens=True) for s, at in zip((best, taken), starts, strict=True))
    return ItemScore(name, mean([won(gap) for gap in gaps]), policy.tokenizer.decode(best.ids[: starts[0]]), output, expected, extra)


def won(gap: float) -> float:
    """1 for a positive difference, 0 for a negative one, half for none."""
    return 0.5 if gap == 0 else float(gap > 0)


def ordered(segments: Any, values: Any) -> list[float]:
    """Differences of values, better less worse, of every pair of answers whose scores differ."""
    scores = [float(s.extras["score"]) for s in segments]
    return [values[i] - values[j] for i in range(len(scores)) for j in range(len(scores)) if scores[i] > scores[j]]


def match(good: list[int], bad: list[int]) -> list[tuple[int, int]]:
    """Pairs (place in `good`, place in `bad`), each place once: answers of one row with each other first, the rest in their order.

    Args:
        good, bad: the row of each desirable and each undesirable answer.

    Raises:
        UserError: there is none of one kind.
    """
    if not good or not bad:
        raise UserError("held-out rows: all have the same label; give held-out rows with both, desirable and undesirable, by --test")
    of_row: dict[int, list[int]] = {}
    for b, row in enumerate(bad):
        of_row.setdefault(row, []).append(b)
    together = [(a, of_row[row].pop(0)) for a, row in enumerate(good) if of_row.get(row)]
    taken, left = {a for a, _ in together}, sorted(b for some in of_row.values() for b in some)
    return sorted([*together, *zip((a for a in range(len(good)) if a not in taken), left, strict=False)])


def area(good: list[float], bad: list[float]) -> float:
    """Area under the ROC curve: the share of (desirable, undesirable) pairs in the right order, ties half."""
    below = np.sort(np.asarray(bad))
    ranks = np.searchsorted(below, good, "left") + np.searchsorted(below, good, "right")
    return float(ranks.mean() / 2 / len(bad))
