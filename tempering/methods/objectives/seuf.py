"""SEUF (UOE), unlearning one expert: of a mixture of experts only that one trains which the forget rows go through most, and its router is held to
it.

    loss = (host loss on the forget rows) + (retain term) + alpha mean_t || softmax(router_l(x_t)) - onehot(e) ||^2

Zhuang et al. 2024 (S185, arXiv 2411.18797): what unlearns all experts makes the router send such text elsewhere, and more experts than need be are
torn. The score of an expert is its mean routing probability over the forget tokens; the best (layer, expert) is chosen before training
(`forgetting/experts.py`), and with it that layer's router trains. The anchor keeps the forget tokens going there. The host loss is the ascent; with a
retain term "nll" it is GradDiff. Others of the family and several experts (the later version) are not here; whether the anchor is averaged over
tokens, as here, the abstract does not say. Weights of all other experts, and of everything else, stay to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._forgetting import RetainLoss
from tempering.methods.objectives.gradient_ascent import GradientAscent
from tempering.reduce import scored
from tempering.types import Coefficient, Context, Norm, Objective, Parts, Signals

FAMILY = "forget"
CATALOGUE = ("S185",)
CONFUSED_WITH = {"memflex": "chooses tensors by the gradients of forget and retain rows", "gradient_ascent": "moves every expert"}


@dataclass(frozen=True)
class _Anchor(Objective):
    """Squared distance of the routing probabilities from one expert alone, on the forget rows."""

    layer: int
    expert: int
    norm: Norm
    part = "forget"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"forget": frozenset({f"router.{self.layer}"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        p_TE = signals["forget"][f"router.{self.layer}"].softmax(-1)
        ctx.log(routed=scored(p_TE, parts["forget"])[:, self.expert])
        chosen_E = p_TE.new_zeros(p_TE.shape[1])
        chosen_E[self.expert] = 1.0
        return (p_TE - chosen_E).square().sum(-1)


@dataclass(frozen=True)
class SEUF(GradientAscent):
    """Ascent in one expert, and an anchor on its router."""

    alpha: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the anchor."""
    layer: int = -1
    """The router and expert that train, counted from 0; -1 chooses by the forget rows."""
    expert: int = -1
    """Of that layer; -1 chooses."""
    retain_loss: RetainLoss = "nll"
    """What holds the rest."""

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        base, router = super().needs, self._anchor().needs["forget"] if self.alpha else frozenset()
        return {**base, "forget": base["forget"] | router}

    def _anchor(self) -> _Anchor:
        return _Anchor(max(self.layer, 0), max(self.expert, 0), self.norm)

    def terms(self) -> tuple[tuple[Coefficient, Objective], ...]:
        return (*super().terms(), *(((self.alpha, self._anchor()),) if self.alpha else ()))


_LN3 = math.log(3)
_FORGET = {"logp": [[-1, -2, -4], [-8]], "router.1": [[[5.0, 5.0], [0.0, 0.0], [0.0, _LN3]], [[_LN3, 0.0]]]}
_WEIGHTS = {"forget": [[0, 1, 0.5], [2]], "retain": [[0, 1], [2]]}
# Probabilities of the second expert are 1/2, 3/4 and 1/4, so the squared distances 1/2, 1/8 and 9/8.

CASES = (
    Case(
        "ascent, other rows kept likely, and the router held to the second expert",
        SEUF(alpha=3.0, layer=1, expert=1),
        {"forget": _FORGET, "retain": {"logp": [[-1, -3], [-0.5]]}},
        weights=_WEIGHTS,
        loss=-(4 + 16) / 3.5 + (3 + 1) / 3 + 3 * (1 / 2 + 0.5 / 8 + 2 * 9 / 8) / 3.5,
        gradient={
            # d/dz of (p - onehot)^2 summed is 4 (p1 - 1) p1 (1 - p1) for the chosen logit, and its negative for the other.
            "forget/router.1": [
                [[0, 0], [3 * 0.5 / 3.5, -3 * 0.5 / 3.5], [3 * 0.5 * 0.1875 / 3.5, -3 * 0.5 * 0.1875 / 3.5]],
                [[3 * 2 * 0.5625 / 3.5, -3 * 2 * 0.5625 / 3.5]],
            ]
        },
        logs={"routed": (1 / 2 + 3 / 4 + 1 / 4) / 3},
    ),
    Case(
        "rows alike; a layer or an expert that is yet to be chosen is the first",
        SEUF(norm="segment_mean", retain_loss="none"),
        {"forget": {"logp": _FORGET["logp"], "router.0": _FORGET["router.1"]}},
        weights=_WEIGHTS,
        loss=-(4 / 1.5 + 8) / 2 + ((1 / 2 + 0.5 * 9 / 8) / 1.5 + 1 / 8) / 2,
    ),
    Case("without an anchor it is its host", SEUF(alpha=0.0, retain_loss="none"), {"forget": {"logp": [[-1], [-3]]}}, loss=-2),
)
