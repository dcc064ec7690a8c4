"""With a verifier that is simpler than the generator, a reward model and own samples make more of the same pairs than DPO on them.

Swamy et al. 2025 (arXiv 2503.01067) show that reinforcement with a reward model fitted to preferences and DPO on these have one optimum (computed in
tests/unit/test_likelihood.py), and find online training ahead where judging is simpler than writing: the reward model learns the simple judgement,
and own samples show which policies it likes. Here the policy was shown two ways to answer a sum (`_reinforced.py`): seeing that an answer is worked
out takes less than working it out. Pairs are a right and a wrong answer of the start model to each of some sums. The baseline takes DPO's steps on
them; the method trains a reward model on them, then takes as many steps of online DPO on own answers to sums, of which the pairs' are a part, by that
reward. Rates and steps are the same for both; the reward model's training is not counted.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from tempering.making import answer
from tempering.methods.credits.leave_one_out import LeaveOneOut
from tempering.methods.environments.arithmetic import Arithmetic
from tempering.methods.objectives.bradley_terry import BradleyTerry
from tempering.methods.objectives.dpo import DPO
from tempering.methods.objectives.online_dpo import OnlineDPO
from tempering.methods.rewards.reward_model import RewardModel
from tempering.models import with_outputs
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import TRAINING, pair_rows, train
from tempering.replications._reinforced import CONSTANT, SUMS, TASKS, TOKENS, begun, right
from tempering.rollouts.play import How, play
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.stream import Conversations
from tempering.rollouts.types import Trajectory
from tempering.types import Policy, Record

CLAIM = Claim(
    method="online_dpo",
    catalogue=("S111",),
    title="A reward model and online DPO against DPO on the same pairs, where judging is simpler than writing",
    claim="After as many steps, more held-out sums are right by a reward model and own samples than by DPO on the pairs that it was fitted to.",
    baseline="DPO on the same pairs",
    metric="held-out accuracy",
    smallest_effect=0.03,
)
SUMS_PAIRED, STEPS, LR = 160, 24, 2e-4


def pairs(start: Policy, seed: int, scale: Scale) -> list[Record]:
    """A right and a wrong answer of the start model to each sum that has both among eight."""
    tasks, found = SUMS.tasks("train", TASKS)[: scale(SUMS_PAIRED)], []
    for task, group in zip(tasks, play(start, SUMS, list(enumerate(tasks)), 8, How(TOKENS, seed=seed)), strict=True):
        earned = SUMS.judge(group).tolist()
        if 0.0 < sum(earned) < len(group):
            both = tuple(answer(group[earned.index(worth)].answer) for worth in (1.0, 0.0))
            found.append(Record(task.prompt, both, better=((0, 1),), id=task.id))
    return found


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Share of held-out sums whose likeliest answer is right."""
    start, steps = begun(seed, scale), scale(STEPS)
    rows = pair_rows(start, pairs(start, seed, scale))
    if arm == "baseline":
        tuned = train(start, DPO(beta=0.1), rows, steps=steps, seed=seed, lr=LR, batch_size=8, schedule=CONSTANT)
        return {"held-out accuracy": right(tuned, scale), "start": right(start, scale), "pairs": len(rows)}
    rewarding = RewardModel(train(with_outputs(copy.deepcopy(start), 1), BradleyTerry(), rows, steps=scale(40), seed=seed, lr=1e-3))

    class Judged(Arithmetic):
        def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
            """The reward model's scores."""
            return rewarding([one.task.prompt for one in played], [one.answer for one in played])

    training = TRAINING.model_copy(update={"batch_size": 8})
    tasks = SUMS.tasks("train", TASKS)
    stream = Conversations(start.tokenizer, Judged(), tasks, LeaveOneOut(), Rollouts(), training=training, max_new_tokens=TOKENS, seed=seed)
    tuned = train(start, OnlineDPO(), stream, steps=steps, seed=seed, lr=LR, schedule=CONSTANT)
    return {"held-out accuracy": right(tuned, scale)}
