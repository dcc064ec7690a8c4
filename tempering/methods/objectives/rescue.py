"""RRescue: fine-tuning on the best answer, and a ranking loss on a partial order of candidates, for example right answers over wrong ones.

    loss = - s_best + alpha * sum_{i better than j} max(0, s_j - s_i),   s = log pi(y) / |y|^c

Wang et al. 2023, arXiv 2311.08252 (S224), section 3. c = 1 for the gold answer (here: the best one) and 0.85 for candidates, alpha = 0.1: from the
released code. Equal scores are unordered, which gives the paper's label-prioritised orders (right above wrong) and the full order alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._listed import LIST_GROUPS, LIST_WEIGHTS, LISTS, Listed, best
from tempering.methods.objectives._paired import length
from tempering.reduce import segment_sum
from tempering.types import Batch, Context

FAMILY = "ranked"
CATALOGUE = ("S224",)
PAPER = {"optimizer.lr": "2e-5 (released script; recalled, not checked)"}


@dataclass(frozen=True)
class Rescue(Listed):
    """The best answer's mean log-prob plus a zero-margin ranking of length-normalised ones."""

    alpha: float = 0.1
    """Weight of the ranking loss; 0 is supervised fine-tuning on the best answers."""
    length_power: float = 0.85
    """What an answer's length is raised to in its score, but for the best one."""

    def loss(self, batch: Batch, signals: Mapping[str, Tensor], better_SS: Tensor, ctx: Context) -> Tensor:
        best_S = best(signals["score"], batch)
        length_S = length(batch)
        value_S = segment_sum(signals["logp"], batch) / torch.where(best_S, length_S, length_S**self.length_power)
        self.log_order(ctx, value_S, better_SS)
        wrong_SS = torch.where(better_SS, F.relu(value_S[None, :] - value_S[:, None]), 0.0)
        return self.alpha * wrong_SS.sum(1) - torch.where(best_S, value_S, 0.0)


CASES = (
    Case(
        "with c = 2 scores are -0.6, -1.5 / 2.25, -1 and -0.5, -2.5 / 3",
        Rescue(alpha=0.5, length_power=2.0),
        LISTS,
        weights=LIST_WEIGHTS,
        groups=LIST_GROUPS,
        loss=(0.6 + 2.5 / 3 + 0.5 * (2.5 / 3 - 0.5)) / 2,
        logs={"accuracy": 3 / 4},
    ),
    Case(
        "two right answers over a wrong one: no order between the right ones",
        Rescue(alpha=0.5, length_power=2.0),
        {"responses": LISTS["responses"] | {"score": [0.0, 1.0, 1.0, 0.9, 0.9]}},
        weights={"responses": [[1.0, 1.0], [1.0, 0.5, 0.0], [1.0], [1.0], [0.0, 0.0, 0.0]]},
        groups=LIST_GROUPS,
        # Scores -1.2 / 4 = -0.3, -1 (the first of the best, c = 1), -1.
        loss=(1.0 + 0.5 + 0.5 * (0.7 + 0.7)) / 2,
    ),
)
