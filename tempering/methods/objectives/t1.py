"""T1: leave-one-out policy gradients that keep exploring, by an entropy bonus and an anchor that follows the policy.

    loss_i = - min(R_i A_i, clip(R_i) A_i) + beta mean_t k3(anchor / policy)_t - alpha mean_t H_t,   R_i = exp(sum_t log p_t - log old_t)
    anchor:  theta_anchor <- (1 - mu) theta_anchor + mu theta before each step

Hou et al. 2025, "Advancing Language Model Reasoning through Reinforcement Learning and Inference Scaling", arXiv 2501.11651 (S132): RLOO (`rloo.py`)
on many samples to each prompt at a high temperature, of which prompts that are all right or all wrong are dropped (`rollouts.drop`), with a penalty
for answers that are cut off, repeat themselves or are no text (`rollouts.spoilt`); H_t is the entropy of the policy's next token. The anchor is the
reference of `kl` (`rollouts.anchor` = mu = 1 - the paper's decay). With alpha 0 and mu 0 this is RLOO held to its start; with mu 1 the divergence is
from the policy itself, and 0. What the paper takes as alpha, beta, mu and temperature is not known here: the defaults are ours. Entropy and
divergence are means over an answer's tokens. A later version of the paper drops the entropy bonus and the anchor from its abstract.

Its inference scaling, an answer forced after a budget of thinking, is the probe `thinking_budget` (`--thinking`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._policy_gradient import EXAMPLE, GROUPS, LOGS, PART, REFERENCE, REFERENCE_KL, WEIGHTS
from tempering.methods.objectives.rloo import RLOO
from tempering.reduce import segment_mean
from tempering.types import Batch, Context

FAMILY = "policy_gradient"
CATALOGUE = ("S132",)
RECIPE = {
    "credit.kind": "leave_one_out",
    "rollouts.samples": 16,
    "rollouts.temperature": 1.2,
    "rollouts.drop": True,
    "rollouts.spoilt": 1.0,
    "rollouts.anchor": 0.01,
}
PAPER = {"rollouts.samples": "64"}


@dataclass(frozen=True)
class T1(RLOO):
    """The clipped ratio of whole answers, an anchor and an entropy bonus."""

    entropy: Annotated[float, Field(ge=0)] = 0.01
    """What a nat of the policy's entropy earns (alpha)."""
    kl: Annotated[float, Field(ge=0)] = 0.01
    """Weight of the divergence from the anchor (beta); 0 makes none."""

    @property
    def reads(self) -> frozenset[str]:
        return super().reads | ({"entropy"} if self.entropy else set())

    def losses(self, s: Mapping[str, Tensor], batch: Batch, ctx: Context) -> Tensor:
        losses_S = super().losses(s, batch, ctx)
        if not self.entropy:
            return losses_S
        ctx.log(policy_entropy=s["entropy"][batch.weight_T != 0])
        return losses_S - self.entropy * segment_mean(s["entropy"], batch)


_ENTROPY = {"entropy": [[0.5, 1.25, 0.25], [2.0, 1.0, 9.0], [4.0]]}
# RLOO's first case, and the mean entropies 2/3 and (2 + 0.5) / 1.5.
_RLOO = -1.5 * math.exp(0.1) + math.exp(-0.1)
CASES = (
    Case(
        "RLOO with a bonus for each answer's mean entropy, in which a token of weight a half counts half",
        T1(entropy=0.3, kl=0.0),
        {PART: {**EXAMPLE[PART], **_ENTROPY}},
        weights=WEIGHTS,
        groups=GROUPS,
        loss=(_RLOO - 0.3 * (2 / 3 + 2.5 / 1.5)) / 2,
        gradient={"rollout/entropy": [[-0.3 / 3 / 2] * 3, [-0.3 / 1.5 / 2, -0.15 / 1.5 / 2, 0], [0]]},
        logs={**LOGS, "clipped": 0, "policy_entropy": 5.0 / 5},
    ),
    Case(
        "an anchor beside it",
        T1(entropy=0.3, kl=2.0),
        {PART: {**REFERENCE[PART], **_ENTROPY}},
        weights=WEIGHTS,
        groups=GROUPS,
        loss=(_RLOO + 2 * sum(REFERENCE_KL[0]) / 3 + 2 * (REFERENCE_KL[1][0] + 0.5 * REFERENCE_KL[1][1]) / 1.5 - 0.3 * (2 / 3 + 2.5 / 1.5)) / 2,
    ),
    Case("without either, RLOO", T1(entropy=0.0, kl=0.0), EXAMPLE, weights=WEIGHTS, groups=GROUPS, loss=_RLOO / 2),
)
