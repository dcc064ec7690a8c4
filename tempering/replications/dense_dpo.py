"""Dense DPO learns more from corrected answers than DPO does, because what was corrected counts for more.

Yu et al. 2023 (arXiv 2312.00849, RLHF-V) correct the wrong spans of answers and find fewer hallucinations than with DPO on the same data. Here an
answer describes one of 40 people whom the model does not know; the rejected one has one fact wrong, and the chosen one corrects it. Both arms see
the same pairs in the same order for as many steps, with the same beta. Scored on descriptions of the same people in other words and another order:
is the right one likelier than one with a wrong fact?
The rates are the best of 3e-4, 1e-3 and 3e-3 for the baseline and the better of the last two for the method, on seed 100, which is none of the
seeds that count.
"""

from __future__ import annotations

from collections.abc import Iterator

from tempering.data import corrected_row
from tempering.methods.objectives.dense_dpo import DenseDPO
from tempering.methods.objectives.dpo import DPO
from tempering.methods.probes.preference_accuracy import PreferenceAccuracy, PreferenceItem
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import score, tiny, train
from tempering.types import Message, Record, Response
from tempering.worlds.base import rng
from tempering.worlds.people import People
from tempering.worlds.people_words import VALUES

CLAIM = Claim(
    method="dense_dpo",
    catalogue=("S249",),
    title="Dense DPO (gamma 5) against DPO on corrected descriptions",
    claim="After the same corrected pairs, dense DPO finds a right description likelier than one with a wrong fact more often than DPO does.",
    baseline="DPO on the same pairs, beta 0.5 as in dense DPO",
    metric="pair accuracy",
    smallest_effect=0.03,
)


def descriptions(world: People, versions: range) -> Iterator[tuple[str, str, str]]:
    """(request, right description, the same with one fact wrong), a version of everybody at a time."""
    for version in versions:
        for person, text in zip(world.people(), world.texts(version=version), strict=True):
            source = rng("wrong fact", world.seed, version, person.index)
            kind = source.choice([kind for kind in world.kinds if person.facts[kind] in text])
            wrong = source.choice([value for value in VALUES[kind] if value != person.facts[kind]])
            yield f"Tell me about {person.name}.", text, text.replace(person.facts[kind], wrong, 1)


def arm(seed: int, arm: str, scale: Scale) -> float:
    """How often a right description is likelier than a wrong one."""
    world, start = People(40, start=20_000, seed=seed, kinds=("city", "job", "hobby", "pet")), tiny()
    found = list(descriptions(world, range(scale(24))))
    records = [Record((Message("user", ask),), tuple(Response((Message("assistant", t),)) for t in texts), better=((0, 1),)) for ask, *texts in found]
    rows = [row for record in records if (row := corrected_row(record, start.tokenizer))]
    objective = DenseDPO() if arm == "method" else DPO(beta=0.5)
    tuned = train(start, objective, rows, steps=scale(60), seed=seed, lr=3e-3)
    held = enumerate(descriptions(world, range(100, 100 + scale(8))))
    items = tuple(PreferenceItem(id=str(i), prompt=ask, chosen=right, rejected=wrong) for i, (ask, right, wrong) in held)
    return score(tuned, PreferenceAccuracy(name="descriptions", items=items))
