"""S2R: each piece of a conversation, an answer or a check of it, is one action with a clipped ratio of its own.

    loss_i = - 1/K_i sum_k min(s_ik A_ik, clip(s_ik) A_ik),   s_ik = exp( mean over turn k of log p_t - log old_t )

Ma et al. 2025, "S2R: Teaching LLMs to Self-verify and Self-correct via Reinforcement Learning", arXiv 2502.12853 (S127), the process level; the ratio
averaged over a piece's tokens and the clip of 0.2 are those of the released code, which divides by the number of the last piece instead of their
count K_i. Credit: `reward_history`; the divergence from the start is taken from the advantage (`rollouts.kl_cost`). The outcome level is RLOO
(`rloo.py`) on `--env.pays outcome`. On conversations of one turn this is GSPO with a wider clip. A piece is a turn (`environments/verify.py`); with
`temper run reft --env verify --algorithm s2r` demonstrations come first, as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._policy_gradient import PART, Clipped
from tempering.reduce import masked, segment_sum
from tempering.types import Batch, Context

FAMILY = "policy_gradient"
CATALOGUE = ("S127",)
RECIPE = {"credit.kind": "reward_history", "rollouts.kl_cost": 0.02}
TINY = 1e-6
"""Less than any weight."""
PAPER = {"rollouts.samples": "4 (outcome level)", "rollouts.kl_cost": "0.01 to 0.05 online, 0.15 offline"}


@dataclass(frozen=True)
class S2R(Clipped):
    """Clipped mean ratios of turns, averaged over a conversation's turns and then over conversations."""

    norm = "segments"

    @property
    def reads(self) -> frozenset[str]:
        return super().reads | {"turn"}

    def losses(self, s: Mapping[str, Tensor], batch: Batch, ctx: Context) -> Tensor:
        turn_T, size = s["turn"], batch.num_tokens
        begins_T = (turn_T[1:] != turn_T[:-1]) | (batch.segment_T[1:] != batch.segment_T[:-1])
        # What stands between two turns has no weight and counts as turn 0: a unit of its own without tokens.
        unit_T = torch.cat([torch.zeros_like(batch.segment_T[:1]), begins_T.cumsum(0)])

        def total(x_T: Tensor) -> Tensor:
            return torch.zeros(size, dtype=x_T.dtype, device=x_T.device).index_add(0, unit_T, masked(x_T, batch))

        own_U = total(torch.ones_like(batch.weight_T)) != 0
        # Of a unit without tokens and a conversation without turns nothing is asked: clamped, so that nothing is divided by 0.
        tokens_U = total(torch.ones_like(batch.weight_T)).clamp(min=TINY)
        value_U = self.surrogate(total(s["logp"] - s["old_logp"]) / tokens_U, total(s["advantage"]) / tokens_U, own_U, ctx)
        share_T = tokens_U.reciprocal()[unit_T]
        return -value_U[unit_T] * share_T / segment_sum(share_T, batch).clamp(min=TINY)[batch.segment_T]


# Two turns with the environment's token between them; a turn of which a token counts half, and one of two tokens; one that is not scored.
_TALK = {
    "logp": [[-1.0, -0.5, -9.0, -2.0], [-0.7, -1.8, -3.0, -2.0], [-9.0]],
    "old_logp": [[-1.1, -1.0, -1.0, -1.5], [-1.0, -1.0, -2.0, -1.5], [-1.0]],
    "advantage": [[2.5, 1.5, 5.0, -1.0], [-1.0, -1.0, 0.5, 1.0], [3.0]],
    "turn": [[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0], [0.0]],
}
_WEIGHTS = {PART: [[1.0, 1.0, 0.0, 1.0], [1.0, 0.5, 1.0, 1.0], [0.0]]}
# Mean log-ratios of the turns: 0.3, -0.5; (0.3 - 0.4) / 1.5, -0.75. Mean advantages: 2, -1; -1, 0.75.
CASES = (
    Case(
        "a good turn past 1.2 and a bad one below 0.8 stand still; a bad one that counts half somewhere, and a good one below 0.8, are followed",
        S2R(),
        {PART: _TALK},
        weights=_WEIGHTS,
        groups={PART: [0, 0, 1]},
        loss=(-(2 * 1.2 - 0.8) / 2 - (-math.exp(-0.1 / 1.5) + 0.75 * math.exp(-0.75)) / 2) / 2,
        gradient={
            "rollout/logp": [
                [0, 0, 0, 0],
                [math.exp(-0.1 / 1.5) / 1.5 / 4, 0.5 * math.exp(-0.1 / 1.5) / 1.5 / 4, *[-0.75 * math.exp(-0.75) / 2 / 4] * 2],
                [0],
            ]
        },
        logs={"clipped": 0.5},
    ),
    Case(
        "a clip that lets the first turn pass, of two neighbouring conversations whose turns have one number",
        S2R(clip_low=0.5, clip_high=0.4),
        {
            PART: {
                "logp": [[-1.0, -0.5], [-0.7, -1.8, -1.0]],
                "old_logp": [[-1.1, -1.0], [-1.0, -1.0, -1.0]],
                "advantage": [[2.0, 2.0], [-1.0, -1.0, 1.0]],
                "turn": [[0.0, 0.0], [0.0, 0.0, 1.0]],
            }
        },
        loss=(-2 * math.exp(0.3) - (-math.exp(-0.25) + 1.0) / 2) / 2,
        logs={"clipped": 0.0},
    ),
)
EQUIVALENT = {
    "losses:min-max:1": "only for what stands between turns and has no weight, whatever comes of it",
    "losses:min-max:3": "only for a conversation that is not scored, whatever comes of it",
}
