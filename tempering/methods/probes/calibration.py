"""Calibration: do stated confidences match how often the model is right?

ECE: confidences in equal-width bins, the mean distance between accuracy and confidence weighted by bin size (Naeini et al. 2015; Guo et al. 2017,
arXiv:1706.04599, equation 3). Brier score: mean squared distance between confidence and outcome (Brier 1950). AUROC: the probability that a right
answer has a higher confidence than a wrong one, ties counting half (the Mann-Whitney statistic). The probe compares models by Brier score, because it
is a mean over items; ECE and AUROC are in the summary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

from tempering.errors import UserError
from tempering.items import ProbeValue, mean
from tempering.types import Policy, ProbeScores


def ece(confidences: Sequence[float], correct: Sequence[bool], bins: int = 10) -> float:
    """Expected calibration error. Bin b holds confidences in (b / bins, (b + 1) / bins]; 0 goes into the first."""
    members: dict[int, list[int]] = {}
    for i, confidence in enumerate(confidences):
        members.setdefault(min(bins - 1, max(0, math.ceil(confidence * bins) - 1)), []).append(i)
    gaps = (abs(sum(correct[i] for i in m) - sum(confidences[i] for i in m)) for _, m in sorted(members.items()))
    return sum(gaps) / len(confidences)


def brier(confidences: Sequence[float], correct: Sequence[bool]) -> float:
    """Mean of (confidence - outcome) squared."""
    return mean([(p - bool(y)) ** 2 for p, y in zip(confidences, correct, strict=True)])


def auroc(confidences: Sequence[float], correct: Sequence[bool]) -> float | None:
    """P(confidence of a right answer > that of a wrong one) + half of P(equal); None where all answers are right or all are wrong."""
    right = sum(map(bool, correct))
    wrong = len(correct) - right
    if right == 0 or wrong == 0:
        return None
    order = sorted(range(len(confidences)), key=lambda i: confidences[i])
    rank_sum, start = 0.0, 0
    while start < len(order):
        end = start
        while end < len(order) and confidences[order[end]] == confidences[order[start]]:
            end += 1
        # tied items share the mean of the ranks start + 1 .. end
        rank_sum += sum(bool(correct[i]) for i in order[start:end]) * (start + 1 + end) / 2
        start = end
    return (rank_sum - right * (right + 1) / 2) / (right * wrong)


def summarise(confidences: Sequence[float], correct: Sequence[bool]) -> dict[str, float]:
    """{"ece", "brier", "auroc" (left out where undefined), "confidence" (mean)}"""
    found = {"ece": ece(confidences, correct), "brier": brier(confidences, correct), "confidence": mean(list(confidences))}
    area = auroc(confidences, correct)
    return found if area is None else {**found, "auroc": area}


def brier_scores(scores: ProbeScores) -> ProbeScores:
    """Item-level Brier scores of a binary probe whose items carry a "confidence"."""
    missing = next((item.id for item in scores.items if "confidence" not in item.extra), None)
    if missing is not None or scores.kind != "binary":
        raise UserError(f"probe '{scores.probe}' gives no confidence (item '{missing}'): calibration needs one, use multiple_choice")
    items = tuple(dataclasses.replace(item, score=(item.extra["confidence"] - item.score) ** 2) for item in scores.items)
    summary = summarise([item.extra["confidence"] for item in scores.items], [item.score == 1.0 for item in scores.items])
    return ProbeScores(f"{scores.probe}.calibration", "Brier score", "continuous", False, items, scores.side, summary)


class Calibration(ProbeValue):
    """Brier score of another probe's confidences. `measure` gives it beside every multiple-choice probe already; alone, it runs the probe first."""

    kind: Literal["calibration"] = "calibration"
    name: str = "calibration"
    of: Any
    """A probe whose items carry a confidence, such as MultipleChoice."""

    def __call__(self, policy: Policy) -> ProbeScores:
        return dataclasses.replace(brier_scores(self.of(policy)), probe=self.name, side=self.side)
