"""Self-reflection: a right rationale lies nearer to another right one than to a wrong one that the student wrote itself.

    loss = max(0, rho - cos(h, h_p) + cos(h, h_n)),   h the last state of a rationale's last token

Wang et al. 2023, arXiv 2310.13332 (S006, Learn-to-Reason), rho = 1. It stands beside the likelihood of the teacher's rationale (recipe `tailored`,
with weight 0.5). A rationale without another right one or without a wrong one has loss 0; it counts in the divisor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.reduce import last, segment_weight
from tempering.types import Context, Objective, Parts, Signals

CATALOGUE = ("S006",)
CONFUSED_WITH = {"triplet": "squared distances to the hardest answers of the step, by classes"}
_PARTS = ("chosen", "positive", "negative")


@dataclass(frozen=True)
class SelfReflection(Objective):
    """A triplet of rationales of one question, by cosines."""

    rho: Annotated[float, Field(ge=0)] = 1.0
    """By how much the cosines must differ."""
    norm = "segments"
    part = "chosen"
    per = "segment"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {part: frozenset({"hidden"}) for part in _PARTS}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        h_SH, positive_SH, negative_SH = (last(signals[part]["hidden"], parts[part]) for part in _PARTS)
        whole_S = (segment_weight(parts["positive"]) != 0) & (segment_weight(parts["negative"]) != 0)
        far_S = F.cosine_similarity(h_SH, negative_SH, dim=1) - F.cosine_similarity(h_SH, positive_SH, dim=1)
        return torch.where(whole_S, F.relu(self.rho + far_S), 0.0)


# Cosines to (3, 4): of (4, 3) 0.96, of (0, 1) 0.8, of (5, 0) 0.6, of (4, -3) 0.
CASES = (
    Case(
        "a triplet that is too near; one that is far enough; one without a wrong rationale; one without another right one",
        SelfReflection(rho=0.25),
        {
            "chosen": {"hidden": [[[9, 9], [3, 4]], [[3, 4]], [[3, 4]], [[3, 4]]]},
            "positive": {"hidden": [[[0, 1], [9, 0]], [[4, 3]], [[4, -3]], [[1, 0]]]},
            "negative": {"hidden": [[[9, 0], [4, 3]], [[5, 0]], [[4, 3]], [[4, 3]]]},
        },
        weights={
            "chosen": [[1, 0.5], [1], [1], [1]],
            "positive": [[1, 0], [1], [1], [0]],
            "negative": [[0, 1], [1], [0], [1]],
        },
        groups={part: [0, 0, 1, 2] for part in _PARTS},
        loss=(0.25 - 0.8 + 0.96) / 4,
        gradient={
            # d cos(x, y) / dx = (y / |y| - cos x / |x|) / |x|, at x = (3, 4).
            "chosen/hidden": [
                [[0, 0], [((0.8 - 0.96 * 0.6) - (0 - 0.8 * 0.6)) / 20, ((0.6 - 0.96 * 0.8) - (1 - 0.8 * 0.8)) / 20]],
                [[0, 0]],
                [[0, 0]],
                [[0, 0]],
            ],
            # At (0, 1) and at (4, 3), with the signs of the two cosines.
            "positive/hidden": [[[-(0.6 - 0) / 4, -(0.8 - 0.8) / 4], [0, 0]], [[0, 0]], [[0, 0]], [[0, 0]]],
            "negative/hidden": [[[0, 0], [(0.6 - 0.96 * 0.8) / 20, (0.8 - 0.96 * 0.6) / 20]], [[0, 0]], [[0, 0]], [[0, 0]]],
        },
    ),
    Case(
        "the same state for both: rho",
        SelfReflection(),
        {part: {"hidden": [[[1.0, 2.0]], [[0.5, -1.0]]]} for part in ("chosen", "positive", "negative")},
        loss=1.0,
    ),
)
