"""Reinforcement of every answer and every check makes a model that was shown how to correct itself right more often.

Ma et al. 2025 (S2R, arXiv 2502.12853) first show a model conversations in which an answer is checked and, where it is wrong, given anew, and go on
with reinforcement at the level of these pieces: an answer earns 1 or -1, a check 1 or -1 by whether it is true. Both, accuracy and checks, are better
than after the demonstrations alone. Here the questions are sums (`environments/verify.py`, two answers at most), the start is builtin:tiny after 60
steps on demonstrations, half of which begin with a bare wrong number, and the method's 20 steps sample 8 conversations about each of 4 sums, with the
paper's credit and loss. Scored is the last answer to held-out sums, played with the likeliest tokens. Beside it stand the first answer, the share of
true checks, and how many answers went from wrong to right and back.

A pilot on seed 9 took 32 steps of 8 sums at 2e-4, the rate of RLOO on sums, and 0.02 a nat: first answers went from 0.38 to 0.46 right, but checks
stopped to be checks (true ones from 0.67 to 0.19), and last answers were lost with them (0.41 to 0.01): the mean ratio of a turn gives each of
a check's few tokens ten times the weight of an answer's. Since then the rate is a quarter of that, a nat costs 0.05, and steps are fewer.
"""

from __future__ import annotations

import copy

from tempering.methods.credits.reward_history import RewardHistory
from tempering.methods.environments.verify import Verify
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.s2r import S2R
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import TRAINING, sft_rows, tiny, train
from tempering.proof.small import start as kept
from tempering.replications._reinforced import CONSTANT
from tempering.rollouts.play import How, play
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.stream import Conversations
from tempering.types import Policy, Role

CLAIM = Claim(
    method="s2r",
    catalogue=("S127",),
    title="S2R's process-level reinforcement against its demonstrations alone",
    claim="After reinforcement paid for answers and checks, more last answers are right than after the demonstrations alone.",
    baseline="supervised training on solve-verify-solve demonstrations",
    metric="held-out accuracy",
    smallest_effect=0.05,
)
TASKS, TOKENS, WARM, STEPS, LR = 500, 40, 60, 20, 5e-5


def shown(seed: int, scale: Scale) -> Policy:
    """builtin:tiny after the demonstrations."""

    def make() -> Policy:
        base = tiny()
        return train(base, NLL(), sft_rows(base, Verify().tasks("train", TASKS)), steps=scale(WARM), seed=seed, lr=1e-3)

    return kept({"claim": "s2r", "seed": seed, "tasks": TASKS, "steps": scale(WARM)}, make)


def scored(policy: Policy, scale: Scale) -> dict[str, float]:
    """What becomes of held-out sums."""
    held = Verify().tasks("test", scale(200))
    ends = [one.state.memory for (one,) in play(policy, Verify(), list(enumerate(held)), 1, How(TOKENS, 0.0))]
    right = [[number == end["answer"] for number in end["said"]] for end in ends]
    checks = [told == was for end, of in zip(ends, right, strict=True) for told, was in zip(end["verdicts"], of, strict=False)]
    every = len(right)
    return {
        CLAIM.metric: sum(of[-1] for of in right) / every,
        "first answer": sum(of[0] for of in right) / every,
        "true checks": sum(checks) / len(checks),
        "wrong to right": sum(of[-1] and not of[0] for of in right) / every,
        "right to wrong": sum(of[0] and not of[-1] for of in right) / every,
    }


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Share of held-out sums whose last answer is right, and what happened on the way."""
    policy = shown(seed, scale)
    if arm == "method":
        env, training = Verify(pays="process"), TRAINING.model_copy(update={"batch_size": 4})
        priced, reference = Rollouts(kl_cost=0.05), {"reference": Role(copy.deepcopy(policy.model))}
        tasks = env.tasks("train", TASKS)
        stream = Conversations(policy.tokenizer, env, tasks, RewardHistory(), priced, training=training, max_new_tokens=TOKENS, seed=seed)
        policy = train(policy, S2R(), stream, steps=scale(STEPS), seed=seed, lr=LR, schedule=CONSTANT, roles=reference)
    return scored(policy, scale)
