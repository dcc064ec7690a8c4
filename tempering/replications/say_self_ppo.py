"""Reinforcement with a reward for knowing how sure one may be makes stated confidences truer than supervised training alone.

Xu et al. 2024 (SaySelf, arXiv 2405.20974) teach a model to state a confidence by what its own samples agree on (stage 1), go on with PPO and the
reward 1 - 2 (correct - confidence)^2 (stage 2), and find a lower expected calibration error after stage 2. Here the policy was shown two ways to
answer a sum, one of which it cannot do (`_reinforced.py`); stage 1 makes it better at sums than it was when its samples were counted. The stages have
other sums than each other and than those that count. Stage 2 samples 8 answers to each of 4 sums a step; advantages are taken from the other answers
(RLOO) instead of a critic, and leaving stage 1 has a price, without which the model unlearned its answers for the certainty of being wrong. The
likeliest answer counts. One that states no confidence counts as sure and wrong, or as unsure and right. Rates, and the world (known and unknown
people gave confidences of 0 or 1 only), were chosen on seed 100, which is none of the seeds that count.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from tempering.data import prompt_ids
from tempering.making import Making
from tempering.methods.credits.leave_one_out import LeaveOneOut
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.rloo import RLOO
from tempering.methods.probes.calibration import summarise
from tempering.methods.rewards.calibrated import Calibrated
from tempering.methods.rewards.exact_answer import ExactAnswer
from tempering.methods.streams.say_self import SaySelf
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import TRAINING, sft_rows, train
from tempering.proof.small import start as kept
from tempering.replications._reinforced import CONSTANT, SUMS, begun
from tempering.rollouts.play import How, play
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.stream import Conversations
from tempering.rollouts.types import Environment, Trajectory
from tempering.sample import sample
from tempering.types import Message, Policy, Role

CLAIM = Claim(
    method="say_self_ppo",
    catalogue=("S228",),
    title="SaySelf's second stage against its first: are stated confidences true?",
    claim="After reinforcement with the calibrated reward the expected calibration error is lower than after stage 1.",
    baseline="stage 1 alone: supervised training on answers with the share of own samples that agree",
    metric="expected calibration error",
    smallest_effect=0.03,
    higher_is_better=False,
    range=(0.0, 0.5),
)
HALF, TOKENS, PRICE = 250, 80, 0.05


class Sure(Environment):
    """Answers with a confidence, by the calibrated reward."""

    def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
        """-1 to 1."""
        return Calibrated(rule="last_number")([one.task.prompt for one in played], [one.answer for one in played], [one.task for one in played])


def first_stage(seed: int, scale: Scale) -> Policy:
    """The policy after stage 1."""

    def make() -> Policy:
        base = begun(seed, scale)

        def ask(prompts: Sequence[tuple[Message, ...]], n: int, temperature: float) -> list[list[str]]:
            ids = [prompt_ids(base.tokenizer, prompt) for prompt in prompts]
            found = sample(base, ids, n=n, temperature=temperature, max_new_tokens=40, batch_size=32, seed=seed)
            return [[episode.text for episode in of] for of in found]

        lessons = list(SaySelf(samples=4)(SUMS.tasks("train", HALF)[: scale(HALF)], Making(seed, ask)))
        return train(base, NLL(), sft_rows(base, lessons), steps=scale(160), seed=seed, lr=1e-3)

    return kept({"claim": "say_self_ppo", "seed": seed, "steps": scale(160)}, make)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """How true the confidences are, and what else the answers are."""
    policy = first_stage(seed, scale)
    if arm == "method":
        tasks, training = SUMS.tasks("train", 2 * HALF)[HALF:], TRAINING.model_copy(update={"batch_size": 4})
        priced, reference = Rollouts(kl_cost=PRICE), {"reference": Role(copy.deepcopy(policy.model))}
        stream = Conversations(policy.tokenizer, Sure(), tasks, LeaveOneOut(), priced, training=training, max_new_tokens=TOKENS, seed=seed)
        policy = train(policy, RLOO(), stream, steps=scale(40), seed=seed, lr=1e-4, schedule=CONSTANT, roles=reference)
    held = SUMS.tasks("test", scale(200))
    said = [one.answer for (one,) in play(policy, Sure(), list(enumerate(held)), 1, How(TOKENS, 0.0))]
    correct = ExactAnswer(rule="last_number")([record.prompt for record in held], [text.partition("\n")[0] for text in said], held) == 1
    confidence = [1.0 - right if (c := Calibrated.stated(text)) is None else c for text, right in zip(said, correct, strict=True)]
    found = summarise(confidence, correct.tolist())
    others = {name: found[name] for name in ("brier", "auroc", "confidence") if name in found}
    silent = sum(Calibrated.stated(text) is None for text in said) / len(said)
    return {CLAIM.metric: found["ece"], "accuracy": float(correct.mean()), "no confidence stated": silent, **others}
