"""Asked whether a description fits, a model learns new classes from eight examples better than by naming them.

Wang et al. 2021 (arXiv 2104.14690) train a model on entailment and then turn a classification of eight examples a class into whether a class's
description follows from the text; this beats standard fine-tuning on as few examples. Here the texts are things (Lisbon, nurse, poodle, ...), and a
class is a kind of thing. Both arms have the same two stages on the same texts, for as many steps of as many rows: a general one on three kinds,
then eight examples of each of three new ones. The method asks whether the thing is of the kind; the baseline gives each kind's name. Those not
shown of the new kinds are sorted among these: by where "yes" is likeliest, or the likeliest name. Each arm's learning rate is the better of 1e-3
and 3e-3 on seed 100, which is none of the seeds that count, with half as many steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tempering.data import prompt_ids
from tempering.data.streams import Phases, Shuffled
from tempering.items import answer_ids, mean
from tempering.making import Making, answer, spoken, user
from tempering.measure import logps_of
from tempering.methods.objectives.nll import NLL
from tempering.methods.streams.efl import EFL
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import sft_rows, tiny, train
from tempering.types import Policy, Record
from tempering.worlds.base import rng
from tempering.worlds.people_words import VALUES

CLAIM = Claim(
    method="efl",
    catalogue=("S090",),
    title="EFL against naming the class: new classes from eight examples",
    claim="After the same examples and steps, a model that says whether a description fits sorts more unseen things into the new classes.",
    baseline="the same model fine-tuned in the same two stages to name the class",
    metric="accuracy",
    smallest_effect=0.05,
)
SHOTS = 8
STEPS = (120, 40)
LR = {"baseline": 3e-3, "method": 1e-3}


def split(seed: int) -> tuple[list[Record], list[Record], list[Record]]:
    """Things of three general kinds; eight of each new kind; and the other things of the new kinds."""
    source = rng("efl", seed)
    kinds = source.sample(sorted(VALUES), len(VALUES))
    half = len(kinds) // 2
    records = {
        kind: [Record((user(thing),), (answer(kind),), id=thing) for thing in source.sample(VALUES[kind], len(VALUES[kind]))] for kind in kinds
    }
    general = [record for kind in kinds[:half] for record in records[kind]]
    shown = [record for kind in kinds[half:] for record in records[kind][:SHOTS]]
    return general, shown, [record for kind in kinds[half:] for record in records[kind][SHOTS:]]


def named(record: Record) -> Record:
    """The thing with its kind in a sentence, the one that the method asks about."""
    return replace(record, responses=(answer(f"It is {spoken(record.responses[0].messages)}."),))


def chosen(policy: Policy, records: list[Record], kinds: list[str], method: bool) -> list[str]:
    """The likeliest kind of each thing."""
    pairs: list[Any] = []
    for record in records:
        for kind in kinds:
            if method:
                asked = f"{spoken(record.prompt)}\n\nTrue or not: It is {kind}."
                pairs += [((user(asked),), said) for said in ("yes", "no")]
            else:
                pairs += [(record.prompt, f"It is {kind}.")]
    found = [float(x.sum()) for x in logps_of(policy, [(prompt_ids(policy.tokenizer, p), answer_ids(policy, said)) for p, said in pairs])]
    if method:
        found = [yes - no for yes, no in zip(found[::2], found[1::2], strict=True)]
    size = len(kinds)
    return [kinds[max(range(size), key=found[i * size : (i + 1) * size].__getitem__)] for i in range(len(records))]


def arm(seed: int, arm: str, scale: Scale) -> float:
    """Accuracy on things that were not shown."""
    start, method = tiny(), arm == "method"
    general, shown, held = split(seed)
    kinds = sorted({spoken(record.responses[0].messages) for record in shown})
    steps = [scale(n) for n in STEPS]
    stages = [EFL()(records, Making(seed)) if method else [named(record) for record in records] for records in (general, shown)]
    phases = [(Shuffled(sft_rows(start, made), 16, seed), n) for made, n in zip(stages, steps, strict=True)]
    tuned = train(start, NLL(), Phases(phases), steps=sum(steps), seed=seed, lr=LR[arm])
    found = chosen(tuned, held, kinds, method)
    return mean([float(kind == spoken(record.responses[0].messages)) for kind, record in zip(found, held, strict=True)])
