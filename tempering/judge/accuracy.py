"""How often a reward finds the better answer of a pair, by subset, as RewardBench reports it (Lambert et al. 2024, arXiv 2403.13787).

A reward model's is its value at an answer's last token; a policy's implicit reward is beta * (log-prob - reference's log-prob) of the answer
(Rafailov et al. 2023, arXiv 2305.18290). A tie counts as wrong. The score is the mean over subsets, so that a large one does not drown the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tempering.errors import UserError
from tempering.stats import Interval, share_interval
from tempering.types import Policy, Row, Segment

Reward = Callable[[Sequence[Segment]], Sequence[float]]
"""Segments -> a reward for each."""


@dataclass(frozen=True)
class PairAccuracy:
    """Shares of pairs told right."""

    subsets: Mapping[str, Interval]
    mean: float
    """Over subsets."""
    ties: int


def pair_accuracy(subsets: Mapping[str, Sequence[Row]], reward: Reward) -> PairAccuracy:
    """Accuracy of a reward on rows of pairs (`data.pair_row`), with Wilson intervals.

    Raises:
        UserError: no subsets, or an empty one.
    """
    if not subsets or not all(subsets.values()):
        empty = next((name for name, rows in subsets.items() if not rows), None)
        raise UserError("pair accuracy: " + ("no subsets" if empty is None else f"subset {empty!r} has no pairs"))
    shares, ties = {}, 0
    for name, rows in subsets.items():
        values = reward([row[part][0] for row in rows for part in ("chosen", "rejected")])
        better = [a > b for a, b in zip(values[::2], values[1::2], strict=True)]
        ties += sum(a == b for a, b in zip(values[::2], values[1::2], strict=True))
        shares[name] = share_interval(sum(better), len(better))
    return PairAccuracy(shares, sum(s.point for s in shares.values()) / len(shares), ties)


def value_reward(model: Any) -> Reward:
    """The reward of a `models.value.ValueModel` with one output."""
    import torch

    def reward(segments: Sequence[Segment]) -> list[float]:
        device, found = model.value_head.weight.device, []
        was = model.training
        model.eval()
        with torch.no_grad():
            for segment in segments:
                hidden = model(input_ids=torch.as_tensor(segment.ids, dtype=torch.long, device=device)[None])
                found.append(float(model.value_head(hidden[0, -1].to(model.value_head.weight.dtype))[0]))
        model.train(was)
        return found

    return reward


def implicit_reward(policy: Policy, reference: Policy | None, *, beta: float = 1.0, mean: bool = False) -> Reward:
    """A policy's implicit reward against a reference; without one, its log-prob.

    Args:
        mean: per token, for losses that compare means (SimPO).
    """
    from tempering.measure import logps_of

    def reward(segments: Sequence[Segment]) -> list[float]:
        starts = [int((s.weight > 0).argmax()) for s in segments]
        pairs = [(s.ids[:at].tolist(), s.ids[at:].tolist()) for s, at in zip(segments, starts, strict=True)]
        sums = [float(logp.double().sum()) for logp in logps_of(policy, pairs)]
        if reference is not None:
            sums = [a - float(b.double().sum()) for a, b in zip(sums, logps_of(reference, pairs), strict=True)]
        return [beta * s / (len(answer) if mean else 1) for s, (_, answer) in zip(sums, pairs, strict=True)]

    return reward
