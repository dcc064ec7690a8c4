"""Learning only what a revision changed leads further than imitating the revision.

Guo et al. 2023 (arXiv 2311.04072, FIGA) weigh the tokens that a revision brought in or took out, and find better answers than fine-tuning on the
revisions gives. Here a first answer is the worse of two replies to a request and the revision the better one, but none is good: pairs whose better
reply earns 2.5 or more (on the topic, courteous and short) are left out. Both arms see the same pairs in the same order for as many steps. Scored by
the gold reward, from -1 to 3, of what is written to held-out requests. The rates are the better of 1e-3 and 3e-3 for each arm on seed 100, which is
none of the seeds that count.
"""

from __future__ import annotations

from itertools import islice

from tempering.data import changed_row
from tempering.methods.objectives.figa import FIGA
from tempering.methods.objectives.nll import NLL
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import only, score, tiny, train
from tempering.worlds.preferences import Preferences

CLAIM = Claim(
    method="figa",
    catalogue=("S151",),
    title="FIGA against fine-tuning on revisions that are better but not good",
    claim="After the same revised answers and steps, a model tuned on what the revisions changed writes answers of higher gold reward.",
    baseline="the same model fine-tuned on the revisions",
    metric="gold reward",
    smallest_effect=0.1,
    range=(-1.0, 3.0),
)


def arm(seed: int, arm: str, scale: Scale) -> float:
    """Gold reward of greedy answers to held-out requests."""
    world, start, steps = Preferences(seed=seed), tiny(), scale(40)
    poor = islice((record for record in world.records("train") if record.tags["gold"][0] < 2.5), 8 * steps)
    rows = [row for record in poor if (row := changed_row(record, start.tokenizer))]
    objective, part = (FIGA(), "train") if arm == "method" else (NLL(), "chosen")
    tuned = train(start, objective, only(rows, part), steps=steps, seed=seed, lr=1e-3 if arm == "method" else 3e-3, batch_size=8)
    return score(tuned, world.reward_probe("test", scale(50)))
