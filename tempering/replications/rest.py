"""Rising bars: ReST's later Improve steps gain on training on everything above the first bar for as long.

Gulcehre et al. 2023 (ReST, arXiv 2308.08998) sample once (Grow) and fine-tune several times on what earns more than a bar that rises (Improve), each
time from the last model and with a smaller rate, and see the reward of samples rise with each Improve step. Here builtin:tiny answers requests
(`_replies.py`). Both arms learn from the same 8 answers to each of 100 requests, in three trainings of 20 steps with falling rates: the method by
bars of 0, 1 and 2.5, the baseline by the bar of 0 each time. Scored is the mean gold reward of sampled answers to held-out requests.
"""

from __future__ import annotations

from tempering.methods.objectives.nll import NLL
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import sft_rows, tiny, train
from tempering.recipes.expert_iteration import better, tried
from tempering.replications._replies import TOKENS, Replies, gold, requests

CLAIM = Claim(
    method="expert_iteration",
    catalogue=("S123",),
    title="ReST's rising bars against the first bar for as long",
    claim="After Improve steps by rising bars, samples earn more than after as many steps on all that is above the first bar.",
    baseline="as many steps on the samples above the first bar",
    metric="gold reward of samples",
    smallest_effect=0.1,
    range=(-1.0, 3.0),
)
BARS = {"baseline": (0.0, 0.0, 0.0), "method": (0.0, 1.0, 2.5)}


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """What sampled answers earn, and which share of the pool the last training saw."""
    now = tiny()
    grown = tried(now, Replies(), requests(seed, "train", scale(100)), 8, 1.0, TOKENS, seed)
    for step, bar in enumerate(BARS[arm]):
        now = train(now, NLL(), sft_rows(now, better(grown, bar)), steps=scale(20), seed=seed + step, lr=2e-4 * 0.7**step)
    seen = len(better(grown, BARS[arm][-1])) / sum(len(record.responses) for record in grown)
    return {CLAIM.metric: gold(now, seed, scale(60)), "seen at last": seen}
