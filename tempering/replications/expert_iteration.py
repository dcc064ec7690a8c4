"""Expert iteration goes at least as far as policy gradients on as many samples.

Havrilla et al. 2024 (arXiv 2403.04642) compare expert iteration, PPO and return-conditioned training on the same questions and find that all do
comparably, with expert iteration best in most cases and no more samples needed. Here the policy was shown two ways to answer a sum, one of which it
cannot do (`_reinforced.py`). Both arms sample 2,560 answers: expert iteration 8 to each of 107 sums in each of three rounds, each round fine-tuned
from the start on what was right; the baseline, RLOO, 8 to each of 8 sums in 40 steps. Scored on held-out sums by the likeliest answer (maj@1); beside
it what the best of 8 sampled answers earns and what most of them agree on (pass@8, maj@8). Rates are the best of few on seed 100, which is none of
the seeds that count.
"""

from __future__ import annotations

from tempering.methods.credits.leave_one_out import LeaveOneOut
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.rloo import RLOO
from tempering.methods.probes.pass_at_k import PassAtK
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import sft_rows, train
from tempering.recipes.expert_iteration import better, tried
from tempering.replications._reinforced import SUMS, TASKS, TOKENS, acted, begun, right
from tempering.types import Policy

CLAIM = Claim(
    method="selected",
    catalogue=("S019",),
    title="Expert iteration against RLOO on as many samples",
    claim="With as many samples, expert iteration answers more held-out questions right than a policy gradient does.",
    baseline="RLOO from the same start, with as many samples",
    metric="maj@1",
    smallest_effect=0.03,
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


def gradient(start: Policy, seed: int, scale: Scale) -> Policy:
    """The model after RLOO."""
    return acted(start, RLOO(), LeaveOneOut(), steps=scale(40), seed=seed, lr=2e-4)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Held-out sums answered right by the likeliest answer, and of 8 sampled ones."""
    start = begun(seed, scale)
    how = iterated if arm == "method" else gradient
    tuned = how(start, seed, scale)
    sampled = PassAtK(environment=SUMS, n=scale(100), k=8, samples=8, max_new_tokens=TOKENS)(tuned)
    best = sum(item.score for item in sampled.items) / len(sampled.items)
    return {"maj@1": right(tuned, scale), "pass@8": best, "maj@8": sampled.summary["majority"], "sampled": sampled.summary["pass@1"]}
