"""Listwise preference optimisation: every ordered pair's logistic loss, weighed by how much swapping the two would change the ranking's DCG.

    loss = sum_{psi_i > psi_j} D_ij log(1 + exp(-(s_i - s_j))),   D_ij = |2^psi_i - 2^psi_j| * | 1 / log(1 + t_i) - 1 / log(1 + t_j) |

with s = beta * (log pi - log pi_ref), psi the score and t an answer's rank (1 is best) by s. Liu et al. 2024, arXiv 2402.01878, equations 13 and 14
("LiPO-lambda"). The weights carry no gradient. Answers of equal s are ranked in their order in the batch, so that training can start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._listed import LIST_GROUPS, LIST_WEIGHTS, LISTS, Listed, place
from tempering.methods.objectives._paired import softplus
from tempering.reduce import segment_sum
from tempering.types import Batch, Context

FAMILY = "ranked"
PAPER = {"optimizer.lr": "1e-6 (DPO's; not in the paper's terms, which trains T5 with Adafactor)"}


@dataclass(frozen=True)
class LiPO(Listed):
    """Lambda loss on DPO's implicit rewards."""

    beta: float = 0.05
    """Section 5.1."""

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"responses": frozenset({"logp", "reference.logp", "score"})}

    def loss(self, batch: Batch, signals: Mapping[str, Tensor], better_SS: Tensor, ctx: Context) -> Tensor:
        reward_S = self.beta * segment_sum(signals["logp"] - signals["reference.logp"], batch)
        self.log_order(ctx, reward_S, better_SS)
        rank_S = 1 + place(reward_S, batch)
        gain_S, discount_S = 2 ** signals["score"], 1 / (1 + rank_S.to(reward_S)).log()
        weight_SS = (gain_S[:, None] - gain_S[None, :]) * (discount_S[:, None] - discount_S[None, :]).abs()
        return torch.where(better_SS, weight_SS * -F.logsigmoid(reward_S[:, None] - reward_S[None, :]), 0.0).sum(1)


def _swap(gains: float, a: int, b: int) -> float:
    return gains * abs(1 / math.log(1 + a) - 1 / math.log(1 + b))


CASES = (
    Case(
        "s = 0.6, -1, 0.4 and 0.4, 1.2: ranks 1, 3, 2 and 2, 1; gains 8, 4, 2",
        LiPO(beta=2.0),
        LISTS,
        weights=LIST_WEIGHTS,
        groups=LIST_GROUPS,
        loss=(
            _swap(4, 1, 3) * softplus(-1.6)
            + _swap(6, 1, 2) * softplus(-0.2)
            + _swap(2, 3, 2) * softplus(1.4)
            + _swap(2**0.9 - 2**0.2, 1, 2) * softplus(-0.8)
        )
        / 2,
        logs={"accuracy": 3 / 4},
    ),
    Case(
        "at the reference ranks are places; an answer without scored tokens has none",
        LiPO(),
        {"responses": {"logp": [[-1.0], [-9.0], [-2.0]], "reference.logp": [[-1.0], [-1.0], [-2.0]], "score": [0.0, 5.0, 1.0]}},
        weights={"responses": [[1.0], [0.0], [1.0]]},
        groups={"responses": [0, 0, 0]},
        loss=_swap(1, 2, 1) * math.log(2),
    ),
)
