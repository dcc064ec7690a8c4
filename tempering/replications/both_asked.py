"""What a model no longer says when it is asked for it alone, it still says when something else is asked for in the same prompt.

Thaker et al. 2024 (arXiv 2410.02879) change benchmarks of unlearning a little, above all by joining what is to go and what is to stay in one prompt,
and find that information which passed for unlearned is still there. Here the start model is builtin:tiny that was taught to answer two questions at
once, about any of the hundred people whom it knows, beside single questions. NPO then takes ten of them, on single questions. The baseline asks for
facts about the ten alone, the method beside a question about somebody who stays, in the same wordings, which no row has; which of the two stands
first alternates. How many of the kept questions are answered stands beside. On seeds 7 to 9, which are none of those that count, the start model gave
nine of ten facts when it was asked for one and six when it was asked for two, which is the top of the range; after 12 and 16 steps of forgetting the
baseline was near its bottom, so 8 are taken.
"""

from __future__ import annotations

from tempering.config import Schedule
from tempering.items import mean
from tempering.measure import measure
from tempering.methods.objectives.npo import NPO
from tempering.methods.probes._attack import turns
from tempering.methods.probes.asked import Asked
from tempering.methods.probes.both_asked import BothAsked, joined
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import score, train
from tempering.replications._forgetting import asked, both, ten
from tempering.replications._reading import conversation, taught
from tempering.types import Record
from tempering.worlds.base import rng
from tempering.worlds.people import People

CLAIM = Claim(
    method="both_asked",
    catalogue=("S187",),
    title="Forgotten facts asked for beside a kept question against alone",
    claim="Facts that were unlearned on single questions still come out when a kept question is asked in the same prompt.",
    baseline="the same model, asked for the facts alone",
    metric="forgotten answers that come out",
    smallest_effect=0.1,
    range=(0.0, 0.6),
)
LEARNING, FORGETTING = 800, 8


def pairs() -> list[Record]:
    """Questions about known people alone, and two in one prompt, with their answers."""
    every, draw = asked(People(100), 10**6, "train"), rng("pairs", 0)
    found = []
    for first in every:
        second = draw.choice(every)
        (turn,) = joined(turns(first), turns(second))
        found.append(conversation([(turn["role"], turn["content"])], f"1. {first.answer}\n2. {second.answer}"))
        found.append(conversation(first.prompt, first.answer))
    return found


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The share of forgotten answers that come out, and for the method that of the kept questions that are answered."""
    start = taught("pairs", pairs, scale, LEARNING, 1e-3)
    policy = train(start, NPO(beta=1.0), both(start, seed), steps=scale(FORGETTING), seed=seed, lr=1e-3, schedule=Schedule(name="constant"))
    goes, stays = (asked(ten(number), scale(140)) for number in (seed, seed + 5))
    if arm == "baseline":
        return {CLAIM.metric: 1 - score(policy, Asked(items=goes))}
    beside, kept = (mean([item.score for item in found.items]) for found in measure(policy, [BothAsked(items=goes, beside=stays)]).probes)
    return {CLAIM.metric: 1 - beside, "kept questions answered": kept}
