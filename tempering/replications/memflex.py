"""Ascent in the tensors that the forget rows alone pull at keeps more of what belongs to the same people than ascent everywhere.

Tian et al. 2024 (MemFlex, arXiv 2407.01920) find that other methods forget more than they were asked for, and that choosing what trains by gradients
keeps what should stay about the same subjects. Here two kinds of facts about ten known people of builtin:tiny are to go, and five others are to stay;
the retain rows show these of five of the ten alone, and the other five's are asked for. Both arms have the paper's loss, 0.4 of the ascent and twice
the likelihood of the retain rows; the baseline moves all weights (GradDiff), the method the tensors that the paper's sigma and a mu of 0.55 leave,
about half. Rate and mu are the best of 3e-4 and 1e-3, and of 0.4 and 0.55, on seed 9, which is none of those that count; there both arms came to the
same. What is compared is the best difference between what stays and what goes, in wordings that no row has, at a step that each arm chooses.
"""

from __future__ import annotations

from typing import Any

from tempering.config import Schedule
from tempering.data.forgetting import forget_row, retain_row
from tempering.data.streams import Shuffled, Together
from tempering.forgetting.localise import Region, within
from tempering.methods.objectives.memflex import MemFlex
from tempering.methods.scopes.full import Full
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import TRAINING, score, tiny, train
from tempering.replications._forgetting import BATCH
from tempering.signals import engine_for
from tempering.types import Policy
from tempering.worlds.people import People

CLAIM = Claim(
    method="memflex",
    catalogue=("S011",),
    title="MemFlex against GradDiff on facts about the same people",
    claim="What stays and what goes of the same people come further apart when only the tensors train that gradients choose.",
    baseline="the same loss on all weights (GradDiff)",
    metric="best difference of accuracies",
    smallest_effect=0.05,
)
GOING, STAYING = ("city", "job"), ("employer", "hobby", "pet", "food", "friend")
MU, RATE = 0.55, 3e-4


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The best difference, and what it is made of."""
    start, method = tiny(), MemFlex(mu=MU)
    first = seed % 10 * 10
    goes, shown, stays = People(10, start=first, kinds=GOING), People(5, start=first, kinds=STAYING), People(5, start=first + 5, kinds=STAYING)
    going = [row for record in goes.records("train") if (row := forget_row(record, start.tokenizer))]
    kept = [row for record in shown.records("train") if (row := retain_row(record, start.tokenizer))]
    seen: list[tuple[float, float, int]] = []
    share: list[float] = [1.0]

    def choose(handle: Any) -> list[str]:
        names = within(handle, method, going, kept, seed=seed, engine=engine_for(TRAINING))
        share[0] = len(names) / len(handle.params)
        return names

    def look(step: int, policy: Policy) -> None:
        if step % 4 == 0:
            gone, left = (score(policy, world.probe("test", None)) for world in (goes, stays))
            seen.append((left - gone, left, step))

    scope = Region(Full(), choose) if arm == "method" else Full()
    rows = Together(Shuffled(going, BATCH, seed), Shuffled(kept, BATCH, seed))
    constant = Schedule(name="constant")
    train(start, method, rows, steps=scale(60, 4), seed=seed, lr=RATE, schedule=constant, scope=scope, look=look)
    best, left, step = max(seen)
    return {CLAIM.metric: best, "accuracy on what stays": left, "step": float(step), "share of tensors": share[0]}
