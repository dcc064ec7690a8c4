"""What is watched while a policy learns from its own conversations: means that are logged at every step that samples.

reward          what a conversation earned; reward_std its deviation within a group, best the most in a group (pass@n where 1 is right, 0 wrong)
silent_groups   share of groups that all earned the same: they teach nothing
entropy         nats a token, estimated by minus the sampler's log-probs; what sinks to 0 has stopped to explore
length          sampled tokens; unfinished the share that ended by the budget; turns where there are several
distinct        share of different answers within a group
mismatch        |sampler's - trainer's log-prob| of a token, where the trainer's is known

What the update itself moves is logged by the losses (`objectives/_policy_gradient.py`): old_kl, kl, clipped, ratio_far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from tempering.rollouts.types import Trajectory


def health(groups: Sequence[Sequence[Trajectory]], scores: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """The means to log of what was sampled.

    Args:
        groups: conversations by task, whether they will be learned from or not.
        scores: what each of them earned, nan where nobody knows.
    """
    every = [trajectory for group in groups for trajectory in group]
    known = [score_N[np.isfinite(score_N)] for score_N in scores]
    found: dict[str, Sequence[float] | np.ndarray] = {
        "reward": np.concatenate(known),
        "reward_std": [score_N.std() for score_N in known if len(score_N) > 1],
        "best": [score_N.max() for score_N in known if len(score_N)],
        "silent_groups": [float(silent(score_N)) for score_N in scores],
        "entropy": [-logp for trajectory in every for turn in trajectory.turns for logp in turn.logps],
        "length": [float(trajectory.tokens) for trajectory in every],
        "unfinished": [float(not trajectory.finished) for trajectory in every],
        "distinct": [len({t.answer for t in group}) / len(group) for group in groups if len(group) > 1],
    }
    if any(len(trajectory.turns) > 1 for trajectory in every):
        found["turns"] = [float(len(trajectory.turns)) for trajectory in every]
    return {name: torch.tensor(np.asarray(values, np.float64)) for name, values in found.items()}


def silent(score_N: np.ndarray) -> bool:
    """Whether a group's scores, those that are known, are all the same."""
    known = score_N[np.isfinite(score_N)]
    return len(known) == 0 or bool(np.ptp(known) <= 1e-9 * np.abs(known).max(initial=1.0))


def mismatch(sampled_T: np.ndarray, trained_T: np.ndarray) -> Mapping[str, Tensor]:
    """How far the sampler's log-probs of its tokens are from the trainer's."""
    return {"mismatch": torch.tensor(np.abs(sampled_T - trained_T))}
