"""Process rewards: how likely each step of an answer is right, learned from labels at the steps' last tokens; or one outcome for a whole answer.

    loss = - c log sigmoid(r_t) - (1 - c) log sigmoid(-r_t)   at every scored token t

Lightman et al. 2023, arXiv 2305.20050, for steps: their last tokens are the scored ones, with a label each. A label per answer makes it an outcome
verifier, which foretells at every token whether the answer's end is right (Cobbe et al. 2021, arXiv 2110.14168, section 4, by squared error there).
Labels are a column "label", [T] or [S], from 0 to 1; what is between is a chance. `norm="segment_mean"` makes answers count alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._paired import softplus
from tempering.reduce import segment_mean
from tempering.types import Context, Norm, Objective, Parts, Signals

FAMILY = "steps"


@dataclass(frozen=True)
class ProcessReward(Objective):
    """Cross-entropy of labels at the scored tokens."""

    part: str = "train"
    norm: Norm = "tokens"
    """What the sum is divided by: all labelled tokens of the step, or "segment_mean"."""

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {self.part: frozenset({"reward", "label"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        batch, found = parts[self.part], signals[self.part]
        label_T, reward_T = found["label"], found["reward"]
        if label_T.shape[0] != batch.num_tokens:
            label_T = label_T[batch.segment_T]
        # Of an answer's labels, the share that is told; a reward of 0 says nothing.
        ctx.log(accuracy=segment_mean(torch.where(reward_T == 0, 0.5, ((reward_T > 0) == (label_T > 0.5)).to(reward_T)), batch))
        return -label_T * F.logsigmoid(reward_T) - (1 - label_T) * F.logsigmoid(-reward_T)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


_REWARDS = {"reward": [[2.0, 5.0, -1.0], [0.5]]}

CASES = (
    Case(
        "three labelled steps, one of them by chance and one of half weight",
        ProcessReward(),
        {"train": _REWARDS | {"label": [[1.0, -9.0, 0.75], [0.0]]}},
        weights={"train": [[1.0, 0.0, 0.5], [1.0]]},
        loss=(softplus(-2.0) + 0.5 * (0.75 * softplus(1.0) + 0.25 * softplus(-1.0)) + softplus(0.5)) / 2.5,
        gradient={"train/reward": [[(_sigmoid(2.0) - 1) / 2.5, 0, 0.5 * (_sigmoid(-1.0) - 0.75) / 2.5], [_sigmoid(0.5) / 2.5]]},
        logs={"accuracy": (1.0 / 1.5 + 0) / 2},
    ),
    Case(
        "an outcome for every token of an answer, answers alike",
        ProcessReward("responses", norm="segment_mean"),
        {"responses": {"reward": [[2.0, 5.0, -1.0], [0.5, 0.0]], "label": [0.0, 1.0]}},
        loss=((softplus(2.0) + softplus(5.0) + softplus(-1.0)) / 3 + (softplus(-0.5) + math.log(2)) / 2) / 2,
        logs={"accuracy": (1 / 3 + 1.5 / 2) / 2},
    ),
)
