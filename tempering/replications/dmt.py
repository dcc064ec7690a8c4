"""A skill learned first is forgotten while another is learned, and a quarter of its rows seen again keeps it.

Dong et al. 2023 (arXiv 2310.05492) find that sequential training forgets the special skills of its first stage, and that dual-stage mixed fine-tuning
(DMT), which mixes a share k of the special rows into the second stage, keeps more of them. Here the special skill is the facts of 20 people whom the
model does not know, and the general one good replies to requests for advice. Both arms have the same first stage and as many steps in the second; the
baseline's second stage has no special rows (k = 0), the method's a quarter of them. The gold reward of replies stands beside. The learning rate, one
for all, is the better of 1e-3 and 3e-3 for the baseline's mean of both skills on seed 100, which is none of the seeds that count.
"""

from __future__ import annotations

from dataclasses import replace

from tempering.data.streams import Phases, Shuffled
from tempering.making import Making
from tempering.methods.objectives.nll import NLL
from tempering.methods.streams.dmt import DMT
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import score, sft_rows, tiny, train
from tempering.worlds.people import People
from tempering.worlds.preferences import Preferences

CLAIM = Claim(
    method="dmt",
    catalogue=("S199",),
    title="DMT with k = 1/4 against sequential training: what is kept of the first skill",
    claim="After as many steps, a model whose second stage holds a quarter of the first stage's rows answers more of the first skill's questions.",
    baseline="the same two stages without replay",
    metric="special accuracy",
    smallest_effect=0.05,
)
LR = 1e-3


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Accuracy on the people in unseen wordings, and the gold reward of replies to held-out requests."""
    people, advice, start = People(20, start=20_000, seed=seed), Preferences(seed=seed), tiny()
    special = [replace(record, tags={**record.tags, "domain": "special"}) for record in people.records("train")]
    general = [replace(record, tags={**record.tags, "domain": "general"}) for record in advice.records("train", 480)]
    made = list(DMT(k=1 / 4 if arm == "method" else 0)([*special, *general], Making(seed)))
    stages = [Shuffled(sft_rows(start, [record for record in made if record.tags["phase"] == stage]), 16, seed) for stage in (0, 1)]
    tuned = train(start, NLL(), Phases([(stage, scale(30)) for stage in stages]), steps=2 * scale(30), seed=seed, lr=LR)
    return {"special accuracy": score(tuned, people.probe("test", scale(200))), "gold reward": score(tuned, advice.reward_probe("test", scale(50)))}
