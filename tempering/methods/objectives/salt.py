"""SALT: a small model helps a larger one through its first steps; then the data alone teach it.

    step < until:  loss = (1 - weight) * NLL + weight * KL(p || q)      p of the small model, q of the one in training
    after that:    loss = NLL

Rawat et al. 2024, arXiv 2410.18779 ("A Little Help Goes a Long Way"): distillation in the reverse direction, weight = 2/3 for about a sixth of the
steps. A small teacher's soft labels are biased, but vary less; early in training that is a good bargain. After `until` the teacher is not asked any
more. The paper's selection of rows for the first stage (SALT-DS: where the small model is unsure, but has the right token among its ten likeliest) is
not here. The cross-entropy to soft labels differs from the KL by what does not move.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from tempering.cases import Case
from tempering.methods.objectives.forward_kl import ForwardKL
from tempering.methods.objectives.nll import NLL
from tempering.types import Coefficient, Norm, Objective

FAMILY = "distil"
CATALOGUE = ("S064",)


@dataclass(frozen=True)
class SALT(Objective):
    """Distillation from a small model at first, next-token loss after."""

    weight: Annotated[float, Field(ge=0, le=1)] = 2 / 3
    """The teacher's share while it is asked."""
    until: Annotated[int, Field(ge=0)] = 20
    """How many steps it is asked for."""
    norm: Norm = "tokens"
    """What the sum is divided by."""

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"train": NLL().needs["train"] | ForwardKL().needs["train"]}

    def share(self, step: int) -> float:
        """The teacher's share at a step."""
        return self.weight if step < self.until else 0.0

    def terms(self) -> tuple[tuple[Coefficient, Objective], ...]:
        return ((self.share, ForwardKL(norm=self.norm)), (lambda step: 1 - self.share(step), NLL(norm=self.norm)))


_LN3 = math.log(3)
_GIVEN = {
    "train": {
        "logits": [[[0.0, _LN3], [1.0, 1.0]], [[0.0, 0.0]]],
        "teacher.logits": [[[0.5, 0.5], [0.0, _LN3]], [[2.0, 2.0]]],
        "logp": [[-1.0, -3.0], [-0.5]],
    }
}
_KL = [0.5 * math.log(4 / 3), 0.25 * math.log(0.5) + 0.75 * math.log(1.5)]

CASES = (
    Case(
        "the last step with the teacher, by rows",
        SALT(weight=0.75, until=5, norm="segment_mean"),
        _GIVEN,
        weights={"train": [[1.0, 2.0], [1.0]]},
        step=4,
        loss=0.75 * (_KL[0] + 2 * _KL[1]) / 3 / 2 + 0.25 * ((1 + 6) / 3 + 0.5) / 2,
        gradient={"train/logp": [[-0.25 / 6, -0.5 / 6], [-0.25 / 2]]},
    ),
    Case("the first without", SALT(weight=0.75, until=5), _GIVEN, step=5, loss=4.5 / 3, gradient={"train/logp": [[-1 / 3, -1 / 3], [-1 / 3]]}),
)
