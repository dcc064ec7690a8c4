"""Expert iteration goes further on the same questions than more supervised training, and loses nothing in what several attempts reach.

Havrilla et al. 2024 (arXiv 2403.04642) compare expert iteration, PPO and return-conditioned training on the same questions: all gain on supervised
training and do comparably, and unlike it they gain by the likeliest answer (maj@1) and by the best of many at once. Here the policy was shown two
ways to answer a sum, one of which it cannot do (`_reinforced.py`). The method samples 8 answers to each of 107 sums in each of three rounds, and each
round is fine-tuned from the start, for 40 steps, on what was right. The baseline sees the demonstrations of the same sums for as many steps as the
rounds have together. Scored on held-out sums by the likeliest answer; beside it pass@8 and maj@8. On seed 100, which is none of the seeds that count
and on which rates were looked at, RLOO made as much of as many samples (0.515 to 0.5).
"""

from __future__ import annotations

from tempering.methods.objectives.nll import NLL
from tempering.methods.probes.pass_at_k import PassAtK
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import sft_rows, train
from tempering.recipes.expert_iteration import better, tried
from tempering.replications._reinforced import SUMS, TASKS, TOKENS, begun, demonstrations, right
from tempering.types import Policy

CLAIM = Claim(
    method="expert_iteration",
    catalogue=("S019",),
    title="Expert iteration against more supervised fine-tuning on the same questions",
    claim="Fine-tuning on one's own right answers, in rounds, is right more often than as many more steps on the demonstrations.",
    baseline="supervised fine-tuning on the demonstrations of the same questions, as many steps more",
    metric="maj@1",
    smallest_effect=0.05,
)
ROUNDS, EACH = 3, 107


def iterated(start: Policy, seed: int, scale: Scale) -> Policy:
    """The model of the last round."""
    now, each = start, scale(EACH)
    for number in range(ROUNDS):
        tasks = SUMS.tasks("train", TASKS)[number * EACH :][:each]
        kept = better(tried(now, SUMS, tasks, 8, 1.0, TOKENS, seed + number), 0.0)
        now = train(start, NLL(), sft_rows(start, kept), steps=scale(40), seed=seed + number, lr=3e-4)
    return now


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Held-out sums answered right by the likeliest answer, and of 8 sampled ones."""
    start = begun(seed, scale)
    if arm == "method":
        tuned = iterated(start, seed, scale)
    else:
        shown = demonstrations(seed, ROUNDS * scale(EACH))
        tuned = train(start, NLL(), sft_rows(start, shown), steps=ROUNDS * scale(40), seed=seed, lr=3e-4)
    sampled = PassAtK(environment=SUMS, n=scale(50), k=8, samples=8, max_new_tokens=TOKENS)(tuned)
    best = sum(item.score for item in sampled.items) / len(sampled.items)
    return {"maj@1": right(tuned, scale), "pass@8": best, "maj@8": sampled.summary["majority"], "pass@1": sampled.summary["pass@1"]}
