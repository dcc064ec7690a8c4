"""Rank responses to align with human feedback: an answer's mean log-prob should be above that of every worse answer; the best one is learned.

    loss = sum_{score_i < score_j} max(0, p_i - p_j) - log pi(y_best),   p = (1/|y|) log pi(y)

Yuan et al. 2023, arXiv 2304.05302, equations 1 to 4. The second term is a sum over tokens, as printed; no reference and no margin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._listed import LIST_GROUPS, LIST_WEIGHTS, LISTS, Listed, best
from tempering.reduce import segment_mean, segment_sum
from tempering.types import Batch, Context

FAMILY = "ranked"
PAPER = {"optimizer.lr": "2e-5 (section 4.1; recalled, not checked)"}


@dataclass(frozen=True)
class RRHF(Listed):
    """Zero-margin ranking of mean log-probs plus the best answer's likelihood."""

    sft: float = 1.0
    """Weight of the best answer's negative log-likelihood."""

    def loss(self, batch: Batch, signals: Mapping[str, Tensor], better_SS: Tensor, ctx: Context) -> Tensor:
        value_S = segment_mean(signals["logp"], batch)
        self.log_order(ctx, value_S, better_SS)
        wrong_SS = torch.where(better_SS, F.relu(value_S[None, :] - value_S[:, None]), 0.0)
        return wrong_SS.sum(1) - self.sft * torch.where(best(signals["score"], batch), segment_sum(signals["logp"], batch), 0.0)


CASES = (
    Case(
        "means -0.6, -1, -1 and -0.5, -2.5 / 3: only 5 > 4 is violated; the best are the first and the last",
        RRHF(sft=0.5),
        LISTS,
        weights=LIST_WEIGHTS,
        groups=LIST_GROUPS,
        loss=(2.5 / 3 - 0.5 + 0.5 * (1.2 + 2.5)) / 2,
        gradient={"responses/logp": [[-0.25, -0.25], [0.0, 0.0, 0.0], [0.0], [0.5], [-0.25 - 1 / 6] * 3]},
        logs={"accuracy": 2 / 4},
    ),
    Case(
        "the first of two best is learned; an answer without scored tokens is none of them",
        RRHF(),
        {"responses": LISTS["responses"] | {"score": [2.0, 3.0, 3.0, 0.2, 0.9]}},
        weights={"responses": [[1.0, 1.0], [1.0, 0.5, 0.0], [1.0], [1.0], [0.0, 0.0, 0.0]]},
        groups=LIST_GROUPS,
        loss=(0.4 + 0.4 + 1.5 + 0.5) / 2,
    ),
)
