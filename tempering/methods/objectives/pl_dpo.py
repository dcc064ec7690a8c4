"""DPO on rankings: the likelihood of a whole order of answers under the Plackett-Luce model, with DPO's implicit rewards.

    loss = - sum_k log( exp(r_k) / sum_{j not better than k} exp(r_j) ),   r = beta * (log pi - log pi_ref)

Rafailov et al. 2023, arXiv 2305.18290, appendix A.3, equation 18. Answers of equal score say nothing about each other here: each leaves the other out
of its sum, so that ties have no gradient. Two answers give DPO.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._listed import LIST_GROUPS, LIST_WEIGHTS, LISTS, Listed
from tempering.reduce import segment_sum
from tempering.types import Batch, Context

FAMILY = "ranked"
PAPER = {"optimizer.lr": "1e-6 (appendix B, for pairs)"}


@dataclass(frozen=True)
class PLDPO(Listed):
    """Plackett-Luce likelihood of the order by score."""

    beta: float = 0.1

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"responses": frozenset({"logp", "reference.logp", "score"})}

    def loss(self, batch: Batch, signals: Mapping[str, Tensor], better_SS: Tensor, ctx: Context) -> Tensor:
        reward_S = self.beta * segment_sum(signals["logp"] - signals["reference.logp"], batch)
        self.log_order(ctx, reward_S, better_SS)
        itself_SS = torch.eye(batch.num_segments, dtype=torch.bool, device=reward_S.device)
        return torch.where(better_SS | itself_SS, reward_S[None, :], -math.inf).logsumexp(1) - reward_S


CASES = (
    Case(
        "orders 1 > 2 > 3 and 5 > 4",
        PLDPO(beta=2.0),
        LISTS,
        weights=LIST_WEIGHTS,
        groups=LIST_GROUPS,
        loss=(math.log(1 + math.exp(-1.6) + math.exp(-0.2)) + math.log(1 + math.exp(1.4)) + math.log(1 + math.exp(-0.8))) / 2,
        logs={"accuracy": 3 / 4},
    ),
    Case(
        "a tie leaves the other out; an answer without scored tokens takes no part",
        PLDPO(beta=2.0),
        {"responses": LISTS["responses"] | {"score": [2.0, 2.0, 1.0, 0.2, 0.9]}},
        weights={"responses": [[1.0, 1.0], [1.0, 0.5, 0.0], [1.0], [0.0], [1.0, 1.0, 1.0]]},
        groups=LIST_GROUPS,
        loss=(math.log(1 + math.exp(-0.2)) + math.log(1 + math.exp(1.4))) / 2,
    ),
)
