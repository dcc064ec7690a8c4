"""SuperHF: imitate the best of several own answers, held to what the start model would have said.

    loss = mean over tokens of the best answers of  - log p(y_t)  +  beta sum_v p_ref(v) [log p_ref(v) - log p(v)]

Mukobi et al. 2023, "SuperHF: Supervised Iterative Learning from Human Feedback" (S174). Each step samples answers of the policy as it is, a reward
picks one to each question (`--credit selected`), one step of fine-tuning follows, and all are thrown away. The divergence is that of the whole
distributions, from the reference to the policy, as in the released code; it is 0 at the start, with its gradient. beta 0.23 is of one released
configuration. It never is below 0, so the code's bound there is left out, and sampling has no top-p 0.95. With beta 0 and one sample this is
fine-tuning on one's own answers. How alike answers become is logged as "distinct" instead of the paper's METEOR.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._policy_gradient import PolicyGradient
from tempering.types import Batch, Context

FAMILY = "policy_gradient"
CATALOGUE = ("S174",)
RECIPE = {"credit.kind": "selected"}
PAPER = {"optimizer.lr": "3e-5 (a released configuration)", "rollouts.samples": "32 (a released configuration)"}


@dataclass(frozen=True)
class SuperHF(PolicyGradient):
    """Likelihood of the best answers, with a prior."""

    beta: Annotated[float, Field(ge=0)] = 0.23
    """What a nat of the prior costs at each token."""
    norm = "tokens"
    by_token = True

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"logp", "old_logp", "advantage", "logits", "reference.logits"})

    def losses(self, s: Mapping[str, Tensor], batch: Batch, ctx: Context) -> Tensor:
        log_p_TV, log_ref_TV = s["logits"].log_softmax(-1), s["reference.logits"].log_softmax(-1)
        prior_T = (log_ref_TV.exp() * (log_ref_TV - log_p_TV)).sum(-1)
        ctx.log(prior=prior_T[batch.weight_T != 0])
        return s["advantage"] * (self.beta * prior_T - s["logp"])


_LN2, _LN3 = math.log(2), math.log(3)
# (1/2, 1/2) against (1/4, 3/4), and (1/4, 3/4) against (1/2, 1/2).
_PRIOR = [0.5 * math.log(4 / 3), 0.25 * math.log(0.5) + 0.75 * math.log(1.5)]
_BEST = {
    "logp": [[-1.0, -0.5, -7.0], [-0.7], [-2.0]],
    "old_logp": [[-1.5, -0.2, -1.0], [-0.7], [-2.0]],
    "advantage": [[1.0, 1.0, 1.0], [1.0], [0.0]],
    "logits": [[[0.0, _LN3], [1.0, 1.0], [9.0, 0.0]], [[0.0, _LN2]], [[0.0, _LN3]]],
    "reference.logits": [[[0.5, 0.5], [0.0, _LN3], [0.0, 0.0]], [[1.0, 1.0 + _LN2]], [[0.0, 0.0]]],
}
CASES = (
    Case(
        "two best answers, one of which has not moved, and one that was not picked",
        SuperHF(beta=0.4),
        {"rollout": _BEST},
        weights={"rollout": [[1.0, 0.5, 0.0], [1.0], [1.0]]},
        loss=(1.0 + 0.4 * _PRIOR[0] + 0.5 * (0.5 + 0.4 * _PRIOR[1]) + 0.7) / 3.5,
        gradient={
            "rollout/logp": [[-1 / 3.5, -0.5 / 3.5, 0], [-1 / 3.5], [0]],
            "rollout/logits": [[[-0.4 * 0.25 / 3.5, 0.4 * 0.25 / 3.5], [0.2 * 0.25 / 3.5, -0.2 * 0.25 / 3.5], [0, 0]], [[0, 0]], [[0, 0]]],
        },
        logs={
            "prior": (2 * _PRIOR[0] + _PRIOR[1]) / 4,
            "old_kl": (math.exp(0.5) - 1.5 + math.exp(-0.3) - 0.7) / 4,
            "ratio_far": 0,
        },
    ),
    Case("without a prior: cross-entropy on the best", SuperHF(beta=0.0), {"rollout": _BEST}, loss=(1.0 + 0.5 + 7.0 + 0.7) / 5),
)
