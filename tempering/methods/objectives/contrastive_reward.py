"""A reward model that also tells pairs from each other: Bradley-Terry, and contrast of what parts chosen from rejected, in features.

    loss = BT + weight * mean_i - log [ exp(z_i z'_i / tau) / sum_j exp(z_i z'_j / tau) ],   z = unit vector of h(x, y_w) - h(x, y_l)

Wang et al. 2024, arXiv 2401.06080 (Secrets of RLHF, part II; S217), section 3.1: SimCSE (Gao et al. 2021, arXiv 2104.08821, equation 1) on the
differences of a pair's features; j runs over the pairs of the step. z and z' are two passes under dropout: "chosen" and "rejected", and the same
"_again". Where nothing is dropped (an adapter drops only for itself, so not while it is 0) both are equal, `views=1` saves the second, and what is
left is that differences spread. h is the state at the last scored token. weight and tau are recalled, not checked. SwAV's prototypes are not here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._embedded import own
from tempering.methods.objectives._paired import SIDES, softplus
from tempering.methods.objectives.bradley_terry import BradleyTerry
from tempering.reduce import last, segment_weight
from tempering.types import Coefficient, Context, Objective, Parts, Signals

FAMILY = "reward"
CATALOGUE = ("S217",)
RECIPE = {"scope.dropout": 0.1}  # it makes the two views


@dataclass(frozen=True)
class ContrastiveReward(BradleyTerry):
    """Bradley-Terry, and InfoNCE between two passes of the pairs' differences."""

    weight: Annotated[float, Field(ge=0)] = 0.1
    """What the contrast counts for; 0 is Bradley-Terry."""
    temperature: Annotated[float, Field(gt=0)] = 0.05
    """tau: lower looks at the nearest alone."""
    views: Literal[1, 2] = 2
    """Passes of each pair under dropout."""

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        found = dict(super().needs)
        for part, names in _Contrast(self.temperature, self.views).needs.items() if self.weight else ():
            found[part] = found.get(part, frozenset()) | names
        return found

    def terms(self) -> tuple[tuple[Coefficient, Objective], ...]:
        return ((1.0, self), (self.weight, _Contrast(self.temperature, self.views))) if self.weight else ((1.0, self),)


@dataclass(frozen=True)
class _Contrast(Objective):
    temperature: float
    views: int
    norm = "segments"
    part = "chosen"
    per = "segment"
    couples = "gather"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return dict.fromkeys((f"{side}{'_again' * i}" for i in range(self.views) for side in SIDES), frozenset({"hidden"}))

    def stats(self, parts: Parts, signals: Signals) -> Mapping[str, Tensor]:
        return {f"view{i}": self._view(parts, signals, i) for i in range(self.views)} | {"scored": segment_weight(parts["chosen"]) != 0}

    def _view(self, parts: Parts, signals: Signals, i: int) -> Tensor:
        better, worse = (f"{side}{'_again' * i}" for side in SIDES)
        return F.normalize(last(signals[better]["hidden"], parts[better]) - last(signals[worse]["hidden"], parts[worse]), dim=-1)

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        one_SH, *other = (ctx.joined(f"view{i}", self._view(parts, signals, i)) for i in range(self.views))
        score_SS = one_SH @ (*other, one_SH)[0].T / self.temperature
        scored_S = ctx.stats["scored"]
        among_SS = torch.where(scored_S[None], score_SS, torch.finfo(score_SS.dtype).min)
        return own(scored_S * (among_SS.logsumexp(1) - score_SS.diagonal()), scored_S, ctx)


# Differences (3, 4) and (0, 2), in the second pass (0, 1) and (6, 8): cosines 0.8 and 1 for the first, 1 and 0.8 for the second.
_PASS = {
    "chosen": {"reward": [[9, 1.5], [-0.5]], "hidden": [[[4, 4], [4, 6]], [[1, 3]]]},
    "rejected": {"reward": [[0.25], [1.0]], "hidden": [[[1, 2]], [[1, 1]]]},
}
_AGAIN = {"chosen_again": {"hidden": [[[0, 0], [7, 2]], [[5, 9]]]}, "rejected_again": {"hidden": [[[7, 1]], [[-1, 1]]]}}
_BT = (softplus(-1.25) + softplus(1.5)) / 2
_Q, _P = 1 / (1 + math.exp(-0.4)), 1 / (1 + math.exp(0.2))  # The wrong one's chance. d cos(x, y) / dx = (y - cos x) / |x| for unit x, y.

CASES = (
    Case(
        "two pairs in two passes, of which the wrong one is the nearer",
        ContrastiveReward(weight=0.5, temperature=0.5),
        _PASS | _AGAIN,
        weights={"chosen": [[1, 2], [1]]},
        loss=_BT + 0.5 * softplus(0.4),
        gradient={
            "chosen/hidden": [[[0, 0], [0.5 * _Q * 0.48 / 5, -0.5 * _Q * 0.36 / 5]], [[-0.5 * _Q * 0.6 / 2, 0]]],
            "rejected_again/hidden": [[[0.5 * _Q * 0.6, 0]], [[-0.5 * _Q * 0.48 / 10, 0.5 * _Q * 0.36 / 10]]],
        },
    ),
    Case(
        "one pass, where a pair is nearest to itself; a pair that is not scored is nobody's other",
        ContrastiveReward(weight=2.0, temperature=1.0, views=1, centre=0.1),
        {
            "chosen": {"reward": [[1.5], [-0.5], [3]], "hidden": [[[4, 6]], [[1, 3]], [[5, 5]]]},
            "rejected": {"reward": [[0.25], [1.0], [1]], "hidden": [[[1, 2]], [[1, 1]], [[4, 4]]]},
        },
        weights={"chosen": [[1], [1], [0]]},
        groups={"chosen": [0, 0, 1], "rejected": [0, 0, 1]},
        gradient={"chosen/hidden": [[[-2 * _P * 0.48 / 5, 2 * _P * 0.36 / 5]], [[2 * _P * 0.6 / 2, 0]], [[0, 0]]]},
        loss=_BT + 0.1 * (1.75**2 + 0.5**2) / 2 + 2 * softplus(-0.2),
    ),
    Case("no contrast is Bradley-Terry", ContrastiveReward(weight=0.0), _PASS, loss=_BT),
)
EQUIVALENT = {"_view:negate:1": "a loss sees products of two views, and both have the sign"}
