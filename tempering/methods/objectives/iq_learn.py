"""Offline IQ-Learn: cross-entropy with a temporal-difference penalty on the token rewards that the logits, read as soft Q-values, imply.

    loss_t = - log pi(y_t | s_t) + lambda * r_t^2,   r_t = Q(s_t, y_t) - gamma V(s_t+1) = log pi(y_t | s_t) + V(s_t) - gamma V(s_t+1)

Wulfmeier et al. 2024, arXiv 2409.01369 (S165), section 3. V is the log-sum-exp of the logits, 0 after the last token; Q are the logits. With
gamma = 1 and lambda = 1 / (4 alpha) the sum over an answer is IQ-Learn's - [ sum_t phi(r_t) - V(s_0) ], phi(r) = r - r^2 / (4 alpha), because V
telescopes. What stands between two scored tokens (a user's turn) is the environment's: the next state is that before the next scored token. Logged is
the implied reward. lambda = 0.1 and gamma = 1 are choices of this project.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives.nll import NLL
from tempering.types import Batch, Context, Parts, Signals

FAMILY = "tokens"
CATALOGUE = ("S165",)


@dataclass(frozen=True)
class IQLearn(NLL):
    """Cross-entropy plus the squared reward that the logits imply."""

    penalty: Annotated[float, Field(ge=0)] = 0.1
    """lambda, 1 / (4 alpha) of the paper's chi-squared regulariser; 0 is plain cross-entropy."""
    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Discount of the next state's value."""

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {self.part: frozenset({"logp", "logsumexp"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        batch, found = parts[self.part], signals[self.part]
        reward_T = found["logp"] + found["logsumexp"] - self.gamma * _following(found["logsumexp"], batch)
        ctx.log(reward=reward_T[batch.weight_T != 0])
        return -found["logp"] + self.penalty * reward_T**2


def _following(x_T: Tensor, batch: Batch) -> Tensor:
    """At each scored token the value at the next one of its segment, 0 at the last [T]."""
    scored_N = (batch.weight_T != 0).nonzero().squeeze(-1)
    segment_N, x_N = batch.segment_T[scored_N], x_T[scored_N]
    next_N = torch.where(F.pad(segment_N, (0, 1))[1:] == segment_N, F.pad(x_N, (0, 1))[1:], 0.0)
    return torch.zeros_like(x_T).index_copy(0, scored_N, next_N)


# Rewards by hand, gamma 1/2: -1 + 3 - 0.5 * 2 = 1, -2 + 2 - 0 = 0; -1 + 4 - 0.5 * 6 = 0, -3 + 6 - 0 = 3.
CASES = (
    Case(
        "two answers, values 3, 2 and 4, 6; nothing flows from one answer to the next, nor through what is not scored",
        IQLearn(penalty=0.5, gamma=0.5),
        {"train": {"logp": [[-9, -1, -2], [-1, -7, -3]], "logsumexp": [[5, 3, 2], [4, 8, 6]]}},
        weights={"train": [[0, 1, 2], [0.5, 0, 1]]},
        loss=(1 + 0.5 * 1 + 2 * 2 + 0.5 * 1 + 3 + 0.5 * 9) / 4.5,
        gradient={
            # -w + 2 w lambda r; at a value w 2 lambda r, less gamma times that of the token before.
            "train/logp": [[0, 0, -2 / 4.5], [-0.5 / 4.5, 0, 2 / 4.5]],
            "train/logsumexp": [[0, 1 / 4.5, -0.5 / 4.5], [0, 0, 3 / 4.5]],
        },
        logs={"reward": (1 + 0 + 0 + 3) / 4},
    ),
    Case(
        "undiscounted",
        IQLearn(penalty=0.25),
        {"train": {"logp": [[-1, -2], [-0.5]], "logsumexp": [[3, 1.5], [1]]}},
        loss=(1 + 0.25 * 0.25 + 2 + 0.25 * 0.25 + 0.5 + 0.25 * 0.25) / 3,
        logs={"reward": (0.5 - 0.5 + 0.5) / 3},
    ),
)
