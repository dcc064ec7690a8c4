"""Universal logit distillation: a teacher of another vocabulary is followed in the shape of its distributions, whatever its words are.

    loss_t = weight * sum_i | q_(i) - p_(i) |,    p_(1) >= p_(2) >= ... of the teacher and q of the student, the shorter filled up with zeros

Boizard et al. 2024, arXiv 2402.12030 (TMLR 2025): the Wasserstein distance of the two distributions where all different words are
equally far from each other. The paper's loss is the data's cross-entropy plus 1.5 times this, `--nll 1` of the recipe. Tokens of an answer are taken
one by one in their order, as in the paper, as far as the shorter of its two tokenisations goes. The paper's idea is named ULD, which is an unlearning
method here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tempering.cases import Case
from tempering.methods.objectives._distil import scored
from tempering.types import Context, Norm, Objective, Parts, Signals

FAMILY = "distil"
RECIPE = {"nll": 1.0}
CONFUSED_WITH = {"uld": "unlearns by the difference of logits"}


@dataclass(frozen=True)
class UniversalLogit(Objective):
    """Distance of the sorted distributions of teacher and student."""

    weight: Annotated[float, Field(ge=0)] = 1.5
    """What it counts beside the data's cross-entropy (the paper's lambda)."""
    norm: Norm = "tokens"
    """What the sum is divided by."""
    part = "seen"
    by_token = True
    aligned = ("seen", "taught")
    """Parts with as many scored tokens: an answer as the student's tokenizer cuts it, and as the teacher's does."""

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"seen": frozenset({"logits"}), "taught": frozenset({"teacher.logits"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        # Tokens that stand in different places of their parts meet by their number among the scored ones.
        scored_N = scored(parts["seen"])
        student_NV = signals["seen"]["logits"][scored_N].softmax(-1).sort(-1, descending=True).values
        teacher_NV = signals["taught"]["teacher.logits"][scored(parts["taught"])].softmax(-1).sort(-1, descending=True).values
        q_VN, p_VN = pad_sequence([student_NV.T, teacher_NV.T], batch_first=True)
        gap_N = (q_VN - p_VN).abs().sum(0)
        return self.weight * gap_N.new_zeros(parts["seen"].num_tokens).index_copy(0, scored_N, gap_N)


_LN2, _LN3, _LN4, _LN8 = math.log(2), math.log(3), math.log(4), math.log(8)

CASES = (
    Case(
        "three words against two, whichever they are; tokens of one answer stand in different places, and what has no weight takes no part",
        UniversalLogit(weight=2.0),
        {
            # Sorted (3/4, 1/4); without weight; (2/3, 1/3); and in the second row (2/3, 1/3).
            "seen": {"logits": [[[0.0, _LN3], [5.0, 0.0], [_LN2, 0.0]], [[_LN2, 0.0]]]},
            # Without weight; sorted (4/7, 2/7, 1/7), (8/10, 1/10, 1/10); and (1/2, 1/4, 1/4).
            "taught": {"teacher.logits": [[[9.0, 0.0, 0.0], [0.0, _LN2, _LN4], [0.0, 0.0, _LN8]], [[7.0, 0.0, 0.0], [_LN2, 0.0, 0.0]]]},
        },
        weights={"seen": [[1.0, 0.0, 2.0], [0.5]], "taught": [[0.0, 1.0, 1.0], [0.0, 1.0]]},
        loss=2 * (10 / 28 + 2 * 14 / 30 + 0.5 * 0.5) / 3.5,
        # Of two words with chances a > b and signs s, t of their gaps: a b (s - t) on the logit of the first, and its opposite.
        gradient={
            "seen/logits": [
                [[-2 * 3 / 16 * 2 / 3.5, 2 * 3 / 16 * 2 / 3.5], [0.0, 0.0], [2 * 2 * 2 / 9 * -2 / 3.5, 2 * 2 * 2 / 9 * 2 / 3.5]],
                [[0.0, 0.0]],
            ]
        },
    ),
    Case(
        "a student of more words",
        UniversalLogit(),
        {"seen": {"logits": [[[0.0, _LN2, 0.0]], [[0.0, 0.0, 0.0]]]}, "taught": {"teacher.logits": [[[_LN3, 0.0]], [[0.0, _LN2]]]}},
        loss=1.5 * ((1 / 4 + 0 + 1 / 4) + (1 / 3 + 0 + 1 / 3)) / 2,
    ),
)
