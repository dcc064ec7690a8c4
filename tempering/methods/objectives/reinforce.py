"""REINFORCE: the log-prob of what was sampled, weighed by how well it did.

    loss = - sum over tokens of A_t log p_t, averaged over the answers

Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning". No ratio and no clip: it is exact for
answers of the policy as it is, so it goes with one step a round. By its name it takes the plain sum of rewards as credit; with `--credit.whiten` that
is REINFORCE++ (Hu et al. 2025, arXiv 2501.03262) but for its clip, and with another `--credit` it is RLOO's or ReMax's gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._policy_gradient import EXAMPLE, GROUPS, LOGS, REFERENCE, REFERENCE_KL, WEIGHTS, PolicyGradient
from tempering.types import Batch, Context

FAMILY = "policy_gradient"
RECIPE = {"credit.kind": "returns"}


@dataclass(frozen=True)
class Reinforce(PolicyGradient):
    """Advantage times log-prob."""

    norm = "segments"

    def losses(self, s: Mapping[str, Tensor], batch: Batch, ctx: Context) -> Tensor:
        return -s["advantage"] * s["logp"]


CASES = (
    Case(
        "two answers count, by the sum over their tokens; the gradient is minus the advantage",
        Reinforce(),
        EXAMPLE,
        weights=WEIGHTS,
        groups=GROUPS,
        loss=((2 * 1.0 + 2 * 0.5 + 0.5 * 2.0) + (-0.7 - 0.5 * 1.8)) / 2,
        gradient={"rollout/logp": [[-2 / 2, -2 / 2, -0.5 / 2], [1 / 2, 0.5 / 2, 0], [0]]},
        logs=LOGS,
    ),
    Case(
        "held to a reference: 0.3 times k3 beside it, of every token",
        Reinforce(kl=0.3),
        REFERENCE,
        weights=WEIGHTS,
        groups=GROUPS,
        loss=(4.0 - 1.6 + 0.3 * (sum(REFERENCE_KL[0]) + REFERENCE_KL[1][0] + 0.5 * REFERENCE_KL[1][1])) / 2,
        logs={**LOGS, "kl": (sum(REFERENCE_KL[0]) + sum(REFERENCE_KL[1])) / 5},
    ),
)
