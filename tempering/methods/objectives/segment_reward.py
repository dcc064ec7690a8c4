"""Rewards of segments: an answer is cut where its writer hesitated, and the model that scores the pieces learns from preferences over whole answers.

    loss = - log sigmoid( f(y_w | x) - f(y_l | x) - margin ),   f = mean of the rewards at the segments' last tokens

Yin et al. 2025, arXiv 2501.02790, section 3: a token begins a segment where the entropy of the next-token distribution that it was drawn from is
above `cutoff` (1.75 to 2 in its experiments). The entropies come from a column "prior.entropy" [T] of the answers, which `temper run segment_reward`
computes once, or from a role "prior", the model that wrote them. A cutoff of infinity is Bradley-Terry, one of 0 a reward for every token. The
policy's side: `methods/rewards/location_aware.py` (PPO itself is not here).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._paired import softplus
from tempering.methods.objectives.bradley_terry import BradleyTerry
from tempering.types import Batch

FAMILY = "reward"
CATALOGUE = ("S160",)


@dataclass(frozen=True)
class SegmentReward(BradleyTerry):
    """Bradley-Terry on the mean reward of an answer's segments."""

    cutoff: float = 1.75
    """Entropy in nats above which a token begins a segment."""

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {side: names | {"prior.entropy"} for side, names in super().needs.items()}

    def reward(self, batch: Batch, signals: Mapping[str, Tensor]) -> Tensor:
        """The mean reward of an answer's segments [S]; 0 where nothing is scored."""
        scored_N = (batch.weight_T != 0).nonzero().squeeze(-1)
        segment_N = batch.segment_T[scored_N]
        begins_N = (signals["prior.entropy"][scored_N] > self.cutoff) | (segment_N != segment_N.roll(1))
        # The token before one that begins a segment ends one; the last of all does too.
        ends_N = begins_N.roll(-1).index_fill(0, torch.tensor([len(scored_N) - 1], device=scored_N.device)[: len(scored_N)], True)
        reward_N = torch.where(ends_N, signals["reward"][scored_N], 0.0)
        zero_S = reward_N.new_zeros(batch.num_segments)
        return zero_S.index_add(0, segment_N, reward_N) / zero_S.index_add(0, segment_N, ends_N.to(reward_N)).clamp(min=1)


# Cut at 1.5: [2 | 4 6], [3], [8, 2 | 5 | 7 9] of the rewards.
_PAIRS = {
    "chosen": {"reward": [[9.0, 2.0, 4.0, 6.0], [3.0]], "prior.entropy": [[0.0, 0.5, 1.6, 1.5], [0.1]]},
    "rejected": {"reward": [[4.5], [8.0, 2.0, 5.0, 7.0, 9.0]], "prior.entropy": [[3.0], [0.0, 1.0, 2.0, 1.7, 0.2]]},
}
_WEIGHTS = {"chosen": [[0.0, 1.0, 0.5, 1.0], [1.0]]}

CASES = (
    Case(
        "means of (2, 6) against 4.5, and of 3 against (2, 5, 9)",
        SegmentReward(cutoff=1.5),
        _PAIRS,
        weights=_WEIGHTS,
        loss=(softplus(4.5 - 4.0) + softplus(16 / 3 - 3.0)) / 2,
        logs={"chosen_reward": 3.5, "rejected_reward": (4.5 + 16 / 3) / 2},
    ),
    Case(
        "no cut is Bradley-Terry, with its options",
        SegmentReward(cutoff=9.0, margin=1.0),
        {side: columns | ({"margin": [0.5, 1.0]} if side == "chosen" else {}) for side, columns in _PAIRS.items()},
        weights=_WEIGHTS,
        loss=(softplus(4.5 - 6.0 + 0.5) + softplus(9.0 - 3.0 + 1.0)) / 2,
    ),
    Case("a cut before every token", SegmentReward(cutoff=-1.0), _PAIRS, weights=_WEIGHTS, loss=(softplus(0.5) + softplus(6.2 - 3.0)) / 2),
    Case(
        "a pair whose chosen answer is not scored does not count; 3 against (2, 9)",
        SegmentReward(),
        _PAIRS,
        weights={"chosen": [[0.0] * 4, [1.0]]},
        loss=softplus(2.5),
        logs={"chosen_reward": 1.5},
    ),
)
