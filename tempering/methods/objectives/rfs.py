"""Born-again classifiers: a linear head on the answer's embedding learns classes, and each generation learns from the one before it too.

    loss = hard * CE(label, p_k) + distil * T^2 * KL(p_k-1 || p_k),   both p of the KL at temperature T

Tian et al. 2020, arXiv 2003.11539 (S154), equations 4 to 6; hard = distil = 0.5, T = 4 and the factor T^2 are those of the released code. The first
generation has no teacher: RFS(hard=1, distil=0). The policy is a `ValueModel` with one output for each class, read at the last scored token; the
column "label" is the class, 0, 1, ...; the role "teacher" is the last generation. At test time the embedding is frozen and a logistic regression
fitted on its unit vectors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.reduce import last
from tempering.types import Context, Objective, Parts, Signals

FAMILY = "classes"
CATALOGUE = ("S154",)


@dataclass(frozen=True)
class RFS(Objective):
    """Cross-entropy over classes plus distillation from the generation before."""

    hard: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the cross-entropy with the labels."""
    distil: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the distillation; 0 needs no teacher."""
    temperature: Annotated[float, Field(gt=0)] = 4.0
    """T, by which both models' scores are divided in the distillation."""
    norm = "segments"
    part = "train"
    per = "segment"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"train": frozenset({"rewards", "label"} | ({"teacher.rewards"} if self.distil else set()))}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        s = signals["train"]
        score_SK, label_S = last(s["rewards"], parts["train"]), s["label"].long()
        ctx.log(accuracy=(score_SK.argmax(-1) == label_S).float())
        losses_S = -self.hard * score_SK.log_softmax(-1).gather(-1, label_S[:, None]).squeeze(-1)
        if not self.distil:
            return losses_S
        teacher_SK = (last(s["teacher.rewards"], parts["train"]) / self.temperature).log_softmax(-1)
        student_SK = (score_SK / self.temperature).log_softmax(-1)
        return losses_S + self.distil * self.temperature**2 * (teacher_SK.exp() * (teacher_SK - student_SK)).sum(-1)


def _log(*p: float) -> list[float]:
    return [math.log(x) for x in p]


_TWO = {"rewards": [[[9, 9, 9], _log(0.5, 0.25, 0.25), [8, 8, 8]], [_log(0.1, 0.2, 0.7)]], "label": [1, 2]}
_WEIGHTS = {"train": [[1, 0.5, 0], [2]]}

CASES = (
    Case(
        "the first generation: cross-entropy at the last scored token, whatever its weight",
        RFS(hard=1.0, distil=0.0),
        {"train": _TWO},
        weights=_WEIGHTS,
        loss=-(math.log(0.25) + math.log(0.7)) / 2,
        gradient={"train/rewards": [[[0, 0, 0], [0.25, -0.375, 0.125], [0, 0, 0]], [[0.05, 0.1, -0.15]]]},
        logs={"accuracy": 0.5},
    ),
    # At T = 2 the probabilities go with the square roots of the scores' exponentials.
    Case(
        "a teacher of (9, 1, 4) / 14 against a student of (4, 4, 1) / 9 at T = 2",
        RFS(hard=0.25, distil=3.0, temperature=2.0),
        {"train": {"rewards": [[_log(16, 16, 1)], [[1, 2, 3]]], "teacher.rewards": [[_log(81, 1, 16)], [[5, 6, 7]]], "label": [0, 2]}},
        groups={"train": [0, 0]},
        loss=(
            -0.25 * math.log(16 / 33)
            + 12 * sum(t / 14 * math.log(t * 9 / (14 * s)) for t, s in zip((9, 1, 4), (4, 4, 1), strict=True))
            + 0.25 * math.log(1 + math.exp(-1) + math.exp(-2))
        )
        / 2,
        logs={"accuracy": 1.0},
    ),
)
