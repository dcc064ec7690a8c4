"""Knowing the classes and what they are made of first helps to write objects of them.

Li et al. 2024 (arXiv 2403.07969) show a schema as Python classes, train a model on the classes with instances of them (understanding), then on
writing the objects that a text speaks of (following), and find that the first phase carries over to what the second never showed. Here a text says
one thing about a fictitious person: a city, a job or a pet, each an object of a class of its own. Both arms take as many steps of following, with a
negative sample a text, on texts that speak of half of all values; the method has seen the classes with instances of all values for some steps before,
so it takes more steps in all. Scored is the share of texts about other people, with values that extraction showed,
whose objects are written exactly, read back through the syntax tree; texts about the other half of the values stand beside. On seed 100, which does
not count, no model wrote an object of a value that extraction had not shown, and of those shown 0.43 were exact without the first phase and 0.20 with
it: the opposite of the claim.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tempering.data.streams import Phases, Shuffled
from tempering.errors import UserError
from tempering.making import Making, tag, written
from tempering.methods.objectives.nll import NLL
from tempering.methods.streams import _classes
from tempering.methods.streams.knowcoder import KnowCoder
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import score, sft_rows, tiny, train
from tempering.types import Record
from tempering.worlds.base import Item, rng
from tempering.worlds.graded import Graded
from tempering.worlds.people import People
from tempering.worlds.people_words import STATEMENTS

CLAIM = Claim(
    method="knowcoder",
    catalogue=("S196",),
    title="KnowCoder's understanding of classes before extraction against extraction alone, on texts about other people",
    claim="With as many steps of extraction, more texts about new people are extracted exactly after a phase on the classes and their instances.",
    baseline="the same extraction training without that phase",
    metric="extracted exactly",
    smallest_effect=0.05,
)
KINDS = {"city": "City", "job": "Job", "pet": "Pet"}
SCHEMA = [{"name": name, "fields": {"name": "str"}} for name in KINDS.values()]
LR = 2e-3
STEPS, BEFORE = 120, 40


def texts(seed: int, start: int, n: int, new: bool | None = None) -> Iterator[Record]:
    """Statements about `n` people, with the schema and the objects; only of values that are new, or that are not."""
    for person in People(size=n, seed=seed, start=start, kinds=tuple(KINDS)).people():
        source = rng("knowcoder", seed, person.index)
        kind = source.choice(sorted(KINDS))
        value = person.facts[kind]
        if new in (None, rng("new", seed, value).random() < 0.5):
            said = source.choice(STATEMENTS[kind]).format(name=person.name, value=value)
            objects = [{"type": KINDS[kind], "name": value}]
            yield Record((), (written(said),), id=str(person.index), tags={"schema": SCHEMA, "objects": objects})


def exact(text: str, item: Item) -> bool:
    """Whether the objects are the text's, in any order."""
    try:
        found = _classes.extract(text, _classes.checked(_classes.Kind(kind["name"], fields=(("name", "str"),)) for kind in SCHEMA))
    except UserError:
        return False
    return sorted(map(_classes.express, found)) == sorted(map(_classes.express, item["objects"]))


def asked(name: str, seed: int, n: int, new: bool) -> Graded:
    """Texts about other people."""
    made = KnowCoder(understanding=False, negatives=0)(texts(seed, 5000, n, new), Making(seed))
    items: list[Any] = [{"id": r.id, "prompt": r.prompt[0].content, "objects": r.tags["objects"], "answer": tag(r, "objects")} for r in made]
    return Graded(name, tuple(items), exact, max_new_tokens=40)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Share of texts about other people whose objects are written exactly."""
    start, following = tiny(), KnowCoder(understanding=False)
    phases = [(sft_rows(start, following(texts(seed, 1000, scale(600), new=False), Making(seed))), scale(STEPS))]
    if arm == "method":
        # Fifty texts at a time, so that a class is shown with many sets of instances.
        parts = [KnowCoder()(texts(seed, 2000 + 50 * i, 50), Making(seed)) for i in range(scale(12))]
        classes = [record for part in parts for record in part if record.tags["phase"] == 0]
        phases.insert(0, (sft_rows(start, classes), scale(BEFORE)))
    stream = Phases([(Shuffled(rows, 16, seed), n) for rows, n in phases])
    tuned = train(start, NLL(), stream, steps=sum(n for _, n in phases), seed=seed, lr=LR)
    probes = [asked("extracted exactly", seed, scale(200), new=False), asked("of new values", seed, scale(100), new=True)]
    return {probe.name: score(tuned, probe) for probe in probes}
