"""Taking the logits of an assistant away, which knows what is to go and nothing else, costs less than training the model to forget.

Ji et al. 2024 (ULD, arXiv 2406.08607) lose no utility on TOFU where baselines lose a good part of it. Here ten known people are to go from
builtin:tiny. The assistant is its first block with embeddings and head, all of whose weights train; of its logits 0.8 is taken away, as the paper
has it on TOFU. What is compared is the best difference between what stays and what goes, at a step that each arm chooses. Rates are those of seed 9,
which is none of those that count: 2e-3, the only one tried, and for the baseline the best of 3e-4, 5e-4 and 1e-3.
"""

from __future__ import annotations

import copy

from tempering.forgetting.staged import beside, first_layers
from tempering.methods.objectives.uld import ULD
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import tiny
from tempering.replications._trade import graddiff, trade
from tempering.types import Policy

CLAIM = Claim(
    method="uld",
    catalogue=("S001",),
    title="Unlearning from logit difference (ULD) against gradient ascent with the retain rows' likelihood",
    claim="What stays and what goes come further apart when an assistant's logits are taken away than after training the model.",
    baseline="gradient ascent on the same rows with the likelihood of the retain rows (GradDiff)",
    metric="best difference of accuracies",
    smallest_effect=0.1,
)
RATE = 2e-3


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The best difference, and what it is made of."""
    start, loss = tiny(), ULD()
    if arm == "baseline":
        return graddiff(start, seed, scale)
    assistant = Policy(first_layers(start.model, loss.layers), start.tokenizer, name="assistant")

    def taken_away(now: Policy) -> Policy:
        return beside(start, Policy(copy.deepcopy(now.model), now.tokenizer, name="uld"), loss)

    return trade(assistant, loss, seed, scale, lr=RATE, see=taken_away)
