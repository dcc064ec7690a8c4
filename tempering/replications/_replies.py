"""Replies to requests and what they earn, for claims about the reward of samples: builtin:tiny writes replies of every quality, and a gold reward
from -1 to 3 looks for the topic, courtesy and brevity.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tempering.rollouts.play import How, play
from tempering.rollouts.types import Environment, Trajectory
from tempering.types import Policy, Record
from tempering.worlds.preferences import Preferences

TOKENS = 48


class Replies(Environment):
    """Replies, by the gold reward."""

    def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
        """-1 to 3."""
        return np.array([Preferences().reward(one.task.prompt[-1].content, one.answer) for one in played])


def requests(seed: int, split: str, count: int) -> list[Record]:
    """Records with a request each, no two alike."""
    records = {record.prompt: record for record in Preferences(seed=seed).records(split, 4 * count)}
    return list(records.values())[:count]


def gold(policy: Policy, seed: int, count: int) -> float:
    """The mean gold reward of 4 sampled answers to each of so many held-out requests."""
    groups = play(policy, Replies(), list(enumerate(requests(seed, "test", count))), 4, How(TOKENS, seed=seed))
    return float(Replies().judge([one for group in groups for one in group]).mean())
