"""Without the divisions by an answer's length and by the group's deviation wrong answers do not go on for longer.

Liu et al. 2025 ("Understanding R1-Zero-like training", Dr. GRPO, arXiv 2503.20783, section 3) say that GRPO's division by each answer's own length
blames a long wrong answer less for each token than a short one, so that wrong answers grow, and see their length stay lower without both divisions,
at as good a reward. Here a policy was shown two ways to answer a sum as in `_reinforced.py` (the number alone, which is mostly wrong, and worked out,
which is often right), and behind either says "that is it" none to four times, whatever it answered. So how long an answer goes on says nothing of
whether it is right, and nothing but the loss can make it longer. Both arms take 40 steps on 8 samples of each of 8 sums. The metric is how many
words a wrong answer says behind its last number, of answers sampled to held-out sums (4 each, temperature 1). Beside it stand the words of right
answers, the tokens of wrong ones, the share that is right when sampled, and that of the likeliest answers. One pilot on seed 9, which counts in no
result (9.4 words by GRPO, 2.9 by Dr. GRPO, 6.1 before; 0.45, 0.37 and 0.31 right), after which the range was widened from 12 words to the 20 that
fit.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tempering.making import answer
from tempering.methods.credits.group_relative import GroupRelative
from tempering.methods.objectives.dr_grpo import DrGRPO
from tempering.methods.objectives.grpo import GRPO
from tempering.methods.objectives.nll import NLL
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import TRAINING, sft_rows, tiny, train
from tempering.proof.small import start as kept
from tempering.replications._reinforced import CONSTANT, SUMS, TASKS, demonstrations
from tempering.rollouts.play import How, play
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.stream import Conversations
from tempering.types import Policy, Record
from tempering.worlds.base import rng

CLAIM = Claim(
    method="dr_grpo",
    catalogue=(),
    title="Dr. GRPO against GRPO: what wrong answers go on to say",
    claim="After as many steps on as many answers, wrong answers of Dr. GRPO go on for fewer words behind their number than those of GRPO.",
    baseline="GRPO, which divides by each answer's length and by the group's deviation",
    metric="words behind a wrong number",
    smallest_effect=1.0,
    higher_is_better=False,
    range=(0.0, 20.0),
)
TAIL, MOST, TOKENS = " that is it.", 4, 64
STEPS, LR = 40, 2e-4


def longer(seed: int) -> list[Record]:
    """The demonstrations, each with its last words said none to `MOST` times."""
    made = []
    for one in demonstrations(seed):
        said = one.responses[0].messages[0].content
        made.append(replace(one, responses=(answer(said + TAIL * rng("tail", seed, one.id).randint(0, MOST)),)))
    return made


def begun(seed: int, scale: Scale) -> Policy:
    """builtin:tiny after some steps on them."""

    def make() -> Policy:
        base = tiny()
        return train(base, NLL(), sft_rows(base, longer(seed)), steps=scale(60), seed=seed, lr=1e-3)

    return kept({"claim": "dr_grpo", "seed": seed, "tasks": TASKS, "steps": scale(60), "tail": [TAIL, MOST]}, make)


def told(policy: Policy, seed: int, scale: Scale) -> dict[str, float]:
    """How long right and wrong answers to held-out sums go on, and how many are right."""
    tasks = list(enumerate(SUMS.tasks("test", scale(100))))
    played = [one for group in play(policy, SUMS, tasks, 4, How(TOKENS, seed=seed)) for one in group]
    right = SUMS.judge(played) == 1
    words = np.array([len(one.answer.rpartition(SUMS.final(one.answer))[2].split()) for one in played])
    tokens = np.array([one.tokens for one in played])
    likeliest = [one for (one,) in play(policy, SUMS, tasks, 1, How(TOKENS, 0.0))]
    return {
        "words behind a wrong number": _mean(words, ~right), "words behind a right number": _mean(words, right),
        "tokens of wrong": _mean(tokens, ~right), "right when sampled": float(right.mean()), "right": float(SUMS.judge(likeliest).mean()),
    }  # fmt: skip


def _mean(x: np.ndarray, where: np.ndarray) -> float:
    return float(x[where].mean()) if where.any() else 0.0


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """What wrong answers go on to say after training; and before."""
    start = begun(seed, scale)
    objective, credit = (DrGRPO(budget=TOKENS), GroupRelative(scale="none")) if arm == "method" else (GRPO(), GroupRelative())
    training = TRAINING.model_copy(update={"batch_size": 8})
    tasks = SUMS.tasks("train", TASKS)
    stream = Conversations(start.tokenizer, SUMS, tasks, credit, Rollouts(), training=training, max_new_tokens=TOKENS, seed=seed)
    tuned = train(start, objective, stream, steps=scale(STEPS), seed=seed, lr=LR, schedule=CONSTANT)
    return told(tuned, seed, scale) | {f"start: {name}": value for name, value in told(start, seed, scale).items()}
