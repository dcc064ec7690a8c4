"""Rule distillation: the model without a rule learns to answer as it does with the rule before its eyes; context distillation.

    loss_t = T^2 KL( p_T(. | rule, x, y_<t) || q_T(. | x, y_<t) ),    p of the teacher, by default the starting model itself

Yang et al. 2024 (arXiv 2311.08883, "Enabling Large Language Models to Learn from Rules"), after Askell et al. 2021 (arXiv 2112.00861,
section 2.1). The rule stands as a system turn in the teacher's prompt (`--rule`), and both read the same answers. The paper also matches hidden
states and, where the answers with the rule are wrong, takes the right ones; here it is the distributions alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._distil import Distil, kl, scored
from tempering.types import Context, Parts, Signals

FAMILY = "distil"
CATALOGUE = ("S007",)


@dataclass(frozen=True)
class RuleDistillation(Distil):
    """KL of the student, who does not see the rule, from the teacher, who does."""

    aligned = ("train", "told")
    """Parts with as many scored tokens: the same answers, with and without the rule in front."""

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"train": frozenset({"logits"}), "told": frozenset({"teacher.logits"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        scored_N, told_N = (scored(parts[part]) for part in self.aligned)
        student_NV, teacher_NV = signals["train"]["logits"][scored_N], signals["told"]["teacher.logits"][told_N]
        loss_N = kl((teacher_NV / self.temperature).log_softmax(-1), (student_NV / self.temperature).log_softmax(-1))
        return self.temperature**2 * loss_N.new_zeros(parts["train"].num_tokens).index_copy(0, scored_N, loss_N)


_LN3, _LN9 = math.log(3), math.log(9)
_KL = [0.5 * math.log(4 / 3), 0.25 * math.log(0.5) + 0.75 * math.log(1.5)]

CASES = (
    Case(
        "the same answer stands further back behind a rule",
        RuleDistillation(),
        {
            "train": {"logits": [[[5.0, -5.0], [0.0, _LN3], [1.0, 1.0]], [[0.0, _LN3]]]},
            "told": {"teacher.logits": [[[0.0, 9.0], [0.0, 7.0], [0.5, 0.5], [0.0, _LN3]], [[9.0, 0.0], [0.0, _LN3]]]},
        },
        weights={"train": [[0.0, 1.0, 2.0], [1.0]], "told": [[0.0, 0.0, 1.0, 1.0], [0.0, 1.0]]},
        loss=(_KL[0] + 2 * _KL[1]) / 4,
        gradient={"train/logits": [[[0, 0], [-0.25 / 4, 0.25 / 4], [2 * 0.25 / 4, -2 * 0.25 / 4]], [[0, 0]]]},
    ),
    Case(
        "twice as warm",
        RuleDistillation(temperature=2.0),
        {"train": {"logits": [[[0.0, _LN9]], [[0.0, _LN9]]]}, "told": {"teacher.logits": [[[_LN9, 0.0]], [[_LN9 + 1, 1.0]]]}},
        loss=4 * 0.5 * _LN3,
    ),
)
