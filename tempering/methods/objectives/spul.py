"""SPUL, soft prompting for unlearning: with the prompt in front a forget question gets a refusal, and everything else what it got without it.

    loss = CE(refusal | prompt, x_f)  +  alpha CE(y_r | prompt, x_r)  +  beta KL( p(. | x_r) || p(. | prompt, x_r) )

Bhaila et al. 2024 (S049, arXiv 2406.12038, section 3, equations 2 to 5; alpha = beta = 0.5 in the released code, as the catalogue says). There the
forget rows of a classification task get a generic label; here they get one of `data.forgetting.REFUSALS`. The part "bare" is "retain" without the
soft prompt: the same scored tokens in the same order, so the two are compared one by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives.nll import NLL
from tempering.reduce import scored, unscored
from tempering.types import Coefficient, Context, Norm, Objective, Parts, Signals


@dataclass(frozen=True)
class _Unprompted(Objective):
    """Forward KL from the reference on "bare" at the scored tokens of "retain"."""

    norm: Norm
    part = "retain"
    aligned = ("retain", "bare")

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"bare": frozenset({"reference.logits"}), "retain": frozenset({"logits"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        log_p_NV = scored(signals["retain"]["logits"], parts["retain"]).log_softmax(-1)
        log_q_NV = scored(signals["bare"]["reference.logits"], parts["bare"]).log_softmax(-1)
        return unscored((log_q_NV.exp() * (log_q_NV - log_p_NV)).sum(-1), parts["retain"])


@dataclass(frozen=True)
class SPUL(Objective):
    """Refusals for the forget prompts, and the retain rows as they were."""

    retain_weight: Annotated[float, Field(ge=0)] = 0.5
    """alpha."""
    kl_weight: Annotated[float, Field(ge=0)] = 0.5
    """beta."""
    norm: Norm = "tokens"
    """What each of the three terms is divided by."""
    part = "refused"
    aligned = ("retain", "bare")

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"refused": frozenset({"logp"}), "retain": frozenset({"logp", "logits"}), "bare": frozenset({"reference.logits"})}

    def terms(self) -> tuple[tuple[Coefficient, Objective], ...]:
        return ((1.0, self), (self.retain_weight, NLL("retain", norm=self.norm)), (self.kl_weight, _Unprompted(self.norm)))

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        return -signals["refused"]["logp"]


_LN3 = math.log(3)
# Without the prompt (1/2, 1/2) against (1/4, 3/4) with it; then (1/4, 3/4) against (1/2, 1/2); then equal ones.
_KL = [0.5 * math.log(4 / 3), 0.25 * math.log(0.5) + 0.75 * math.log(1.5)]
_SIGNALS = {
    "refused": {"logp": [[-1.0, -2.0, -4.0], [-8.0]]},
    "retain": {
        "logp": [[-0.5, -9.0, -3.0], [-1.0]],
        "logits": [[[0.0, _LN3], [7.0, 0.0], [1.0, 1.0]], [[0.0, 2.0]]],
    },
    "bare": {"reference.logits": [[[0.5, 0.5], [0.0, _LN3]], [[9.0, 0.0], [1.0, 3.0]]]},
}
_WEIGHTS = {"refused": [[1.0, 0.0, 0.5], [2.0]], "retain": [[2.0, 0.0, 1.0], [0.5]], "bare": [[1.0, 1.0], [0.0, 1.0]]}

CASES = (
    Case(
        "refusals, other rows, and what they were without the prompt; one token more in front of the answer",
        SPUL(retain_weight=0.25, kl_weight=3.0),
        _SIGNALS,
        weights=_WEIGHTS,
        loss=(1 + 2 + 16) / 3.5 + 0.25 * (1 + 3 + 0.5) / 3.5 + 3 * (2 * _KL[0] + _KL[1]) / 3.5,
        gradient={
            "refused/logp": [[-1 / 3.5, 0, -0.5 / 3.5], [-2 / 3.5]],
            "retain/logits": [[[-2 * 3 * 0.25 / 3.5, 2 * 3 * 0.25 / 3.5], [0, 0], [3 * 0.25 / 3.5, -3 * 0.25 / 3.5]], [[0, 0]]],
        },
    ),
    Case(
        "each row alike",
        SPUL(norm="segment_mean"),
        _SIGNALS,
        weights=_WEIGHTS,
        loss=((1 + 2) / 1.5 + 8) / 2 + 0.5 * ((1 + 3) / 3 + 1) / 2 + 0.5 * ((2 * _KL[0] + _KL[1]) / 3) / 2,
    ),
)
