"""PDU: flatten the logits on what is to be forgotten, subject to a bound on the retain loss, by a primal-dual method.

    min_theta  mean_t ( max_v z_t(v) - mean_v z_t(v) )^2   subject to   L_retain <= bound
    loss = flattening + lambda * (L_retain - bound),   lambda <- max(0, lambda + dual_rate * (L_retain - bound)) after each step

Entesari et al. 2025, arXiv 2506.05314: the margin is 0 where all tokens are alike, and its gradient does not vanish as an entropy's does. The retain
term's weight is the dual variable: it grows while the bound is broken. Set `bound` somewhat above the retain loss that the model starts with; at
0, the published code's default, the weight only grows. The flattening is a large number, so the authors start the weight at 50 or 100. Their code can
also hold the weight for some epochs and move it once an epoch (OpenUnlearning's configuration: 5 epochs held); here it moves with every step. Theirs
looks at the logits after each token of the answer, ours at those before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._bounded import Bounded
from tempering.methods.objectives._forgetting import Forgetting
from tempering.reduce import scored
from tempering.types import Coefficient, Context, Norm, Objective, Parts, Signals

FAMILY = "forget"


@dataclass(frozen=True)
class PDU(Forgetting):
    """Squared logit margin on the forget rows; a retain term whose weight is a dual variable."""

    bound: float = 0.0
    """What the retain loss may be."""
    dual_rate: Annotated[float, Field(ge=0)] = 1.0
    """How fast the retain term's weight follows the excess of the retain loss; 0 keeps it."""
    retain_weight: Annotated[float, Field(ge=0)] = 50.0
    """Weight of the retain term at the start."""
    norm: Norm = "tokens"
    """What the forget term is divided by."""
    per = "token"

    @property
    def reads(self) -> Mapping[str, frozenset[str]]:
        return {"forget": frozenset({"max_logp", "mean_logp"})}

    def terms(self) -> tuple[tuple[Coefficient, Objective], ...]:
        keeping = self.keeping()
        return ((self.weight, self), *(((1.0, Bounded(keeping, self.bound, self.dual_rate, self.retain_weight)),) if keeping else ()))

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        # Log-probs are logits less a number, which a difference does not see.
        margin_T = signals["forget"]["max_logp"] - signals["forget"]["mean_logp"]
        ctx.log(forget_margin=scored(margin_T, parts["forget"]))
        return margin_T**2


CASES = (
    Case(
        "margins 2, 0.5 and 1; the weight is the last step's and the bound is broken",
        PDU(bound=1.0, dual_rate=0.5, weight=2.0),
        {
            "forget": {"max_logp": [[-9.0, -1.0, -1.5], [-2.0]], "mean_logp": [[-1.0, -3.0, -2.0], [-3.0]]},
            "retain": {"logp": [[-9.0, -3.0], [-1.0]]},
        },
        weights={"forget": [[0, 1, 0.5], [2]], "retain": [[0, 1], [2]]},
        state={"now": [7.0], "next": [3.0]},
        loss=2 * (4 + 0.125 + 2) / 3.5 + 3 * (5 / 3 - 1),
        gradient={"forget/max_logp": [[0, 8 / 3.5, 1 / 3.5], [8 / 3.5]], "retain/logp": [[0, -1], [-2]]},
        logs={"forget_margin": 3.5 / 3, "retain_weight": 3.0, "next_retain_weight": 3 + 0.5 * (5 / 3 - 1)},
    ),
    Case(
        "the bound is kept by more than the weight has left",
        PDU(bound=4.0),
        {"forget": {"max_logp": [[-1.0]], "mean_logp": [[-2.0]]}, "retain": {"logp": [[-1.0, -2.0]]}},
        state={"now": [9.0], "next": [2.0]},
        loss=1 + 2 * (1.5 - 4),
        logs={"next_retain_weight": 0.0},
    ),
    Case(
        "at the start",
        PDU(bound=1.0, retain_weight=5.0),
        {"forget": {"max_logp": [[-1.0], [-1.0]], "mean_logp": [[-2.0], [-4.0]]}, "retain": {"logp": [[-2.0], [-1.0]]}},
        loss=5 + 5 * 0.5,
        logs={"retain_weight": 5.0, "next_retain_weight": 5.5},
    ),
    Case("no retain term", PDU(retain_loss="none"), {"forget": {"max_logp": [[-1.0], [-1.0]], "mean_logp": [[-3.0], [-4.0]]}}, loss=6.5),
)
