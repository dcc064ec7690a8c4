"""Online DPO: of the answers that the policy sampled to a task, the best against the worst.

    loss = - log sigmoid( beta * [ (log pi - log pi_ref)(best) - (log pi - log pi_ref)(worst) ] )

Guo et al. 2024 (OAIF), arXiv 2402.04792; with a reward that picks the best and the worst of several answers it is the online DPO of Noukhovitch et
al. 2024 (Asynchronous RLHF), arXiv 2410.18252, and with `--rollouts.updates`, many steps on each round of sampling, the loop of RLHF Workflow (Dong
et al. 2024, arXiv 2405.07863), whose reference is the start model here. DPO's loss (`dpo.py`) on pairs that are made as they are learned from: no
ratio to who sampled, and answers between the two are not learned from. Best and worst are read off the advantages, so any credit serves that keeps
the order within a task. A task whose answers are all worth the same gives no pair and counts as a task. Where a template rewrites history, the
segments of a conversation stand for answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._policy_gradient import PolicyGradient
from tempering.reduce import group_rank, group_sum, segment_mean, segment_sum, segment_weight
from tempering.types import Batch, Context

FAMILY = "policy_gradient"
CATALOGUE = ("S191", "S059")


@dataclass(frozen=True)
class OnlineDPO(PolicyGradient):
    """DPO on the best and the worst answer to each task."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """How much a nat of the pair's log-ratio to the reference counts."""
    norm = "groups"
    per = "segment"

    @property
    def reads(self) -> frozenset[str]:
        return super().reads | {"reference.logp"}

    def losses(self, s: Mapping[str, Tensor], batch: Batch, ctx: Context) -> Tensor:
        scored_S, worth_S = segment_weight(batch) != 0, segment_mean(s["advantage"], batch)
        best_S = scored_S & (group_rank(worth_S.masked_fill(~scored_S, -torch.inf), batch) == 0)
        worst_S = scored_S & (group_rank((-worth_S).masked_fill(~scored_S, -torch.inf), batch) == 0)

        def apart(x_S: Tensor) -> Tensor:
            return group_sum(torch.where(best_S, x_S, 0.0) - torch.where(worst_S, x_S, 0.0), batch)

        margin_S = self.beta * apart(segment_sum(s["logp"] - s["reference.logp"], batch))
        pair_S = best_S & (apart(worth_S) > 0)
        ctx.log(margin=margin_S[pair_S], accuracy=(margin_S > 0)[pair_S].float())
        return torch.where(pair_S, -F.logsigmoid(margin_S), 0.0)


def _softplus(x: float) -> float:
    return math.log1p(math.exp(x))


# Four answers to the first task, of which the one that earned most is not scored, two to the second that earned the same, two to the third.
_ANSWERS = {
    "rollout": {
        "logp": [[-1.0, -2.0], [-0.5], [-3.0, -1.0, -0.2], [-4.0], [-1.0], [-2.0], [-2.3], [-1.1, -0.6]],
        "reference.logp": [[-1.5, -1.0], [-0.9], [-2.0, -1.6, -0.7], [-1.0], [-3.0], [-1.0], [-0.8], [-0.1, -0.9]],
        "old_logp": [[-1.0, -2.0], [-0.5], [-3.0, -1.0, -0.2], [-4.0], [-1.0], [-2.0], [-2.3], [-1.1, -0.6]],
        "advantage": [[0.5, 0.5], [-0.2], [-1.5, -1.5, -1.5], [9.0], [0.7], [0.7], [-0.4], [0.4, 0.4]],
    }
}
_WEIGHTS = {"rollout": [[1.0, 1.0], [1.0], [0.0, 1.0, 0.5], [0.0], [1.0], [1.0], [1.0], [1.0, 0.5]]}
_GROUPS = {"rollout": [0, 0, 0, 0, 1, 1, 2, 2]}
# Log-ratios to the reference: 0.5 - 1.0 less 0.6 + 0.5 * 0.5; -1.0 + 0.5 * 0.3 less -1.5.
_FIRST, _LAST = -0.5 - 0.85, -0.85 + 1.5
CASES = (
    Case(
        "the best scored answer against the worst of each task, of unequal lengths; equal ones give no pair but count",
        OnlineDPO(beta=0.5),
        _ANSWERS,
        weights=_WEIGHTS,
        groups=_GROUPS,
        loss=(_softplus(-0.5 * _FIRST) + _softplus(-0.5 * _LAST)) / 3,
        gradient={
            "rollout/logp": [
                [-0.5 / (1 + math.exp(0.5 * _FIRST)) / 3] * 2,
                [0],
                [0, 0.5 / (1 + math.exp(0.5 * _FIRST)) / 3, 0.25 / (1 + math.exp(0.5 * _FIRST)) / 3],
                [0],
                [0],
                [0],
                [0.5 / (1 + math.exp(0.5 * _LAST)) / 3],
                [-0.5 / (1 + math.exp(0.5 * _LAST)) / 3, -0.25 / (1 + math.exp(0.5 * _LAST)) / 3],
            ]
        },
        logs={"margin": 0.5 * (_FIRST + _LAST) / 2, "accuracy": 0.5, "old_kl": 0.0},
    ),
    Case(
        "answers that are not scored, worth 0, are neither best nor worst; worth is a mean, of scored tokens alone; margins 0.2, 1.8, -1.1",
        OnlineDPO(beta=0.5),
        {
            "rollout": {
                "logp": [[-5.0], [-0.5], [-1.0, -2.0], [-4.0], [-3.0, -1.5], [-0.6], [-1.0, -1.0, -1.0], [-2.0]],
                "reference.logp": [[-1.0], [-0.9], [-1.3, -1.9], [-2.0], [-1.0, -0.8], [-1.7], [-1.2, -0.9, -1.1], [-1.1]],
                "old_logp": [[-5.0], [-0.5], [-1.0, -2.0], [-4.0], [-3.0, -1.5], [-0.6], [-1.0, -1.0, -1.0], [-2.0]],
                "advantage": [[-9.0], [-0.2], [-0.6, -0.6], [9.0], [9.0, 0.2], [0.3], [0.2, 0.2, 0.2], [0.4]],
            }
        },
        weights={"rollout": [[0.0], [1.0], [1.0, 1.0], [0.0], [0.0, 1.0], [1.0], [1.0, 1.0, 1.0], [1.0]]},
        groups={"rollout": [0, 0, 0, 1, 1, 1, 2, 2]},
        loss=(_softplus(-0.1) + _softplus(-0.9) + _softplus(0.55)) / 3,
        logs={"margin": 0.5 * (0.2 + 1.8 - 1.1) / 3, "accuracy": 2 / 3},
    ),
)
