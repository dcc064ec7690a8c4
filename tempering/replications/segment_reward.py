"""PPO against rewards of an answer's segments earns more than PPO against one reward at its end.

Yin et al. 2025 (arXiv 2501.02790) cut answers where their writer hesitated, train a reward model whose mean over the segments explains preferences,
and give PPO each segment's reward, made comparable by its place and spread over its tokens; they find this better than one reward for the whole
answer and than one for every token. Here builtin:tiny answers the requests of the world of replies, whose gold reward likes the topic, courtesy and
brevity, each said in a place of its own. Both arms train a reward model for as many steps on the same pairs, fit the normaliser to the pairs'
answers, and take as many steps of PPO with a critic; the baseline has one segment, which makes it Bradley-Terry and a reward at the end, its share on
every token. Sampled replies to held-out requests are scored by the gold reward. The cutoff is in nats of builtin:tiny. On seed 100, which is none of
the seeds that count, the baseline was ahead (1.78 against 1.71).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tempering.config import Optimizer
from tempering.layout import collate
from tempering.methods.credits.gae import GAE
from tempering.methods.objectives.ppo import PPO
from tempering.methods.objectives.segment_reward import SegmentReward
from tempering.methods.rewards.location_aware import LocationAware
from tempering.methods.scopes.full import Full
from tempering.models import with_outputs
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import TRAINING, pair_rows, tiny, train
from tempering.replications._reinforced import CONSTANT
from tempering.replications._written import TOKENS, earned
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.stream import Conversations
from tempering.rollouts.types import Environment, Trajectory
from tempering.signals import Engine, Live, compute
from tempering.types import Policy, Record, Role, Segment
from tempering.worlds.preferences import Preferences

CLAIM = Claim(
    method="segment_reward",
    catalogue=("S160",),
    title="PPO against rewards of segments and against one reward for the answer",
    claim="After as many steps, replies of a policy that was paid by the segment have a higher gold reward.",
    baseline="the same with one segment for an answer: a bandit's reward model, and its reward shared by all tokens",
    metric="gold reward",
    smallest_effect=0.1,
    range=(-1.0, 3.0),
)
CUTOFF, LR, STEPS = 1.0, 3e-5, 24


def pieces(model: Any, prior: Any, segments: Sequence[Segment], cutoff: float) -> list[tuple[np.ndarray, list[int]]]:
    """The rewards of each answer's segments, and their tokens."""
    live, needs = {"policy": Live(model), "prior": Live(prior)}, {"train": frozenset({"reward", "prior.entropy"})}
    with torch.no_grad():
        signals = compute(live, collate([{"train": (segment,)} for segment in segments]), needs, Engine())["train"]
    found, at = [], 0
    for segment in segments:
        own = slice(at + int(segment.weight.argmax()), at := at + len(segment.ids))
        lengths = LocationAware.cut(signals["prior.entropy"][own].numpy(), cutoff)
        found.append((signals["reward"][own].double().numpy()[np.cumsum(lengths) - 1], lengths))
    return found


def paid(rewarding: Policy, prior: Policy, rows: Sequence[Any], cutoff: float) -> Environment:
    """Where each token of a reply earns its share of its segment's reward, by what segments at its place earn in these pairs."""

    def scored(segments: Sequence[Segment]) -> list[tuple[np.ndarray, list[int]]]:
        return pieces(rewarding.model, prior.model, segments, cutoff)

    usual = LocationAware.fit([rewards for rewards, _ in scored([s for row in rows for side in ("chosen", "rejected") for s in row[side]])])

    class Paid(Environment):
        def along(self, played: Sequence[Trajectory], tokenizer: Any) -> Sequence[np.ndarray]:
            """The shares of each token."""
            turns = [one.turns[0] for one in played]
            ids = [np.array([*turn.prompt_ids, *turn.ids], np.int32) for turn in turns]
            weights = [np.repeat(np.array([0.0, 1.0], np.float32), [len(turn.prompt_ids), len(turn.ids)]) for turn in turns]
            return [usual.spread(*found) for found in scored([Segment(i, w) for i, w in zip(ids, weights, strict=True)])]

    return Paid()


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Gold reward of sampled replies to held-out requests; segments of an answer."""
    base, world, cutoff = tiny(), Preferences(seed=seed), CUTOFF if arm == "method" else math.inf
    records = list(world.records("train", scale(240)))
    rows = pair_rows(base, records)
    prior = {"prior": Role(copy.deepcopy(base.model))}
    fresh = with_outputs(copy.deepcopy(base), 1)
    rewarding = train(fresh, SegmentReward(cutoff=cutoff), rows, steps=scale(40), seed=seed, lr=1e-3, roles=prior)
    whole: Any = Full()
    critic = Role(with_outputs(copy.deepcopy(base), 1).model, whole, Optimizer(lr=3e-4))
    roles = {"critic": critic, "reference": Role(copy.deepcopy(base.model))}
    tasks = [Record(record.prompt, ()) for record in records]
    stream = Conversations(
        base.tokenizer, paid(rewarding, base, rows[:100], cutoff), tasks, GAE(), Rollouts(samples=4, kl_cost=0.02),
        training=TRAINING.model_copy(update={"batch_size": 8}), max_new_tokens=TOKENS, seed=seed,
    )  # fmt: skip
    tuned = train(base, PPO(), stream, steps=scale(STEPS), seed=seed, lr=LR, schedule=CONSTANT, roles=roles)
    return {"gold reward": earned(tuned, world, scale(60)), "before": earned(base, world, scale(60))}
