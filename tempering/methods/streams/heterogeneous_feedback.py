"""Heterogeneous feedback: ratings, labels, rankings and pairs become pairs of one kind, and of those the good and diverse part is kept.

Aponte et al. 2024, arXiv 2408.02861. All feedback on one prompt is brought together; an answer's score is the mean of its aspects or its rating, 1 or
0 for a label, or comes from the pairs it won. A pair is made only where one score is strictly higher; each prompt gives its widest. Scores are scaled
by the range of their kind over the data, so that a gap of 2 of 4 points is a gap of one half. Quality is the gap. Diversity: prompts are clustered
and each cluster gives its best pairs, as equally many as it can. The paper embeds prompts with a sentence encoder; here k-means runs on hashed words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from tempering.cases import RecordCase, talk
from tempering.making import Maker, Making, answer, by_prompt, made, ordered, overall, plain_words, spoken, user
from tempering.types import Record, Response

FAMILY = "comparisons"
CATALOGUE = ("S209",)
_WORDS = 256


class HeterogeneousFeedback(Maker):
    """Feedback of any kind as pairs, filtered."""

    kind: Literal["heterogeneous_feedback"] = "heterogeneous_feedback"
    keep: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the pairs that are kept; 1 keeps all."""
    clusters: Annotated[int, Field(ge=1)] = 10
    """Of prompts; 1 looks at quality only."""
    aspects: tuple[str, ...] = ()
    """Of ratings by aspect, those that count: the ones the primary data set is about; all by default."""

    held = "made"

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """At most one pair for each prompt."""
        records = list(records)
        spans = self._spans(records)
        pairs: list[tuple[float, Record, list[Record]]] = []
        for group in by_prompt(records):
            answers = [(value / spans[kind], r) for record in group for kind, value, r in self._scored(record)]
            scores = [score for score, _ in answers]
            found = ordered(scores)
            if not found:
                for record in group:
                    making.drop(record, "no answer is better than another")
                continue
            i, j = max(found, key=lambda pair: scores[pair[0]] - scores[pair[1]])
            both = [replace(answers[k][1], score=scores[k], label=None) for k in (i, j)]
            pairs.append((scores[i] - scores[j], made(group[0], "pair", group[0].prompt, both, better=((0, 1),), of=group[1:]), group))
        kept = self._kept([(gap, spoken(record.prompt)) for gap, record, _ in pairs], making)
        for i, (_, record, group) in enumerate(pairs):
            if i in kept:
                yield record
            else:
                for one in group:
                    making.drop(one, "not among the best of its cluster")

    def _scored(self, record: Record) -> Iterator[tuple[str, float, Response]]:
        """(kind of feedback, score, answer)."""
        for i, response in enumerate(record.responses):
            score = overall(response, self.aspects)
            if score is not None:
                yield "rating", score, response
            elif response.label is not None:
                yield "label", float(response.label), response
            elif record.better:
                yield "pair", float(sum(a == i for a, _ in record.better) - sum(b == i for _, b in record.better)), response

    def _spans(self, records: Sequence[Record]) -> dict[str, float]:
        """Kind -> the range of its scores."""
        found: dict[str, list[float]] = {}
        for record in records:
            for kind, value, _ in self._scored(record):
                found.setdefault(kind, []).append(value)
        return {kind: (max(values) - min(values)) or 1.0 for kind, values in found.items()}

    def _kept(self, pairs: Sequence[tuple[float, str]], making: Making) -> set[int]:
        """Indices of the pairs that are kept, given (gap, prompt)."""
        groups: dict[int, list[int]] = {}
        for i, cluster in enumerate(_clusters([prompt for _, prompt in pairs], self.clusters, making)):
            groups.setdefault(cluster, []).append(i)
        queues = [sorted(members, key=lambda i: -pairs[i][0]) for members in groups.values()]
        # Round by round, the best of each cluster that has one left; in a round that is not finished, the widest gaps.
        kept: set[int] = set()
        wanted = round(self.keep * len(pairs))
        while len(kept) < wanted:
            heads = sorted((queue.pop(0) for queue in queues if queue), key=lambda i: -pairs[i][0])
            kept |= set(heads[: wanted - len(kept)])
        return kept


def _clusters(texts: Sequence[str], k: int, making: Making) -> list[int]:
    """k-means on counts of hashed words of length 1; begins with distinct texts drawn by seed."""
    if k == 1 or len(texts) <= 1:
        return [0] * len(texts)
    points = np.zeros((len(texts), _WORDS))
    for row, text in zip(points, texts, strict=True):
        for word in plain_words(text).split():
            row[making.word(word) % _WORDS] += 1
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    centres = points[making.random("centres").sample(range(len(texts)), min(k, len(texts)))]
    nearest = np.zeros(len(texts), dtype=int)
    for _ in range(20):
        nearest = np.argmax(points @ centres.T, axis=1)
        sums = np.stack([points[nearest == c].sum(axis=0) if (nearest == c).any() else centre for c, centre in enumerate(centres)])
        centres = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return nearest.tolist()


def _one(prompt: str, text: str, id: str, score: float | None = None, label: bool | None = None) -> Record:
    return Record((user(prompt),), (Response(answer(text).messages, score, label),), id=id)


def _pair(prompt: str, good: tuple[str, float], bad: tuple[str, float]) -> Record:
    return Record((user(prompt),), tuple(answer(text, score=score) for text, score in (good, bad)), ((0, 1),))


_RATED = [_one("x", "low", "x1", 1.0), _one("x", "high", "x2", 4.0), _one("y", "so", "y1", 3.0), _one("y", "same", "y2", 3.0)]
_RATED += [_one("w", "top", "w", 5.0)]
_LABELS = [_one("z", "bad", "z1", label=False), _one("z", "good", "z2", label=True)]
CASES = (
    RecordCase(
        "ratings of 1 to 5, labels and pairs; a tie and a single answer give nothing",
        HeterogeneousFeedback(keep=1.0),
        [*_RATED, *_LABELS, talk("v", answers=["lost", "won"], better=[(1, 0)])],
        [_pair("x", ("high", 1.0), ("low", 0.25)), _pair("z", ("good", 1.0), ("bad", 0.0)), _pair("v", ("won", 0.5), ("lost", -0.5))],
        dropped={"no answer is better than another": 3},
    ),
    RecordCase(
        "half of two by quality: a gap of 1 before one of 3/4",
        HeterogeneousFeedback(clusters=1),
        [*_RATED, *_LABELS],
        [_pair("z", ("good", 1.0), ("bad", 0.0))],
        dropped={"no answer is better than another": 3, "not among the best of its cluster": 2},
    ),
)
