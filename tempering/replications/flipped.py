"""Which label fits a text is better judged by the likelihood of the instruction after it than by its own, where the label is new.

Ye et al. 2022 (arXiv 2210.02969) tune a model to write the instruction given text and label, with unlikelihood after a wrong label, and find a
better zero-shot accuracy than that of models tuned to write the label, above all for labels that the tuning did not have. Here the texts are things
(Lisbon, nurse, poodle), the labels say what kind of thing they are, and the instruction is one of ten wordings. The tuning has the labels city,
job, company, hobby, pet and food; those of the test are other words for the same kinds (birthplace, profession, employer, pastime, animal, dish),
which the model knows from its own training; a quarter of the things is in the test alone. Both arms take as many steps of as many rows of the same
examples; a row of the method's is an example with its right label or with a wrong one. The learning rate is the better of 1e-3 and 3e-3 for each
arm on seed 100, which is none of the seeds that count (the method's with half as many steps).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tempering.data import prompt_ids
from tempering.items import answer_ids, mean
from tempering.making import answer, user
from tempering.measure import logps_of
from tempering.methods.objectives.flipped import Flipped
from tempering.methods.objectives.nll import NLL
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import sft_rows, tiny, train, unpaired_rows
from tempering.types import Policy, Record, Response
from tempering.worlds.base import rng
from tempering.worlds.people_words import VALUES

CLAIM = Claim(
    method="flipped",
    catalogue=("S166",),
    title="Flipped learning against learning the label: choosing among labels that the tuning did not have",
    claim="After as many steps, choosing the label that makes the instruction likeliest is right more often than choosing the likeliest label.",
    baseline="the same model tuned to write the label after instruction and text, choosing the likeliest label",
    metric="accuracy",
    smallest_effect=0.05,
)
STEPS = 160
LR = 3e-3
LABELS = {"city": "city", "job": "job", "employer": "company", "hobby": "hobby", "pet": "pet", "food": "food"}
NEW = {"city": "birthplace", "job": "profession", "employer": "employer", "hobby": "pastime", "pet": "animal", "food": "dish"}
INSTRUCTIONS = (
    *("What kind of thing is this?", "Say what this is.", "Which label fits?", "Name the kind of this.", "Sort this into its group."),
    *("To which group does it belong?", "Give the label of this word.", "What would you call this?", "Tell me the sort of thing.", "Label this."),
)


@dataclass(frozen=True)
class Example:
    """A thing with its kind and another, and how it is asked for."""

    thing: str
    kind: str
    wrong: str
    instruction: str


def examples(seed: int) -> tuple[list[Example], list[Example]]:
    """Each of 30 things of a kind under four instructions; and the ten others under one."""
    source = rng("flipped", seed)
    trained, held = list[Example](), list[Example]()
    for kind, values in VALUES.items():
        others = [other for other in VALUES if other != kind]
        for i, thing in enumerate(source.sample(values, len(values))):
            for asked in source.sample(INSTRUCTIONS, 4 if i >= 10 else 1):
                (trained if i >= 10 else held).append(Example(thing, kind, source.choice(others), asked))
    return trained, held


def direct(example: Example, label: str) -> Record:
    """Instruction and text -> label."""
    return Record((user(f"{example.instruction}\n{example.thing}"),), (answer(f"a {label}"),))


def flipped(example: Example, label: str, good: bool = True) -> Record:
    """Text and label -> instruction."""
    return Record((user(f"{example.thing} is a {label}"),), (Response(answer(example.instruction).messages, label=good),))


def accuracy(policy: Policy, held: list[Example], labels: dict[str, str], form: Any) -> float:
    """How often the right label has the highest log-probability of what the form has as its answer."""
    forms = [form(example, label) for example in held for label in labels.values()]
    pairs = [(prompt_ids(policy.tokenizer, r.prompt), answer_ids(policy, r.responses[0].messages[0].content)) for r in forms]
    scores = [float(logp_T.sum()) for logp_T in logps_of(policy, pairs)]
    kinds, size = list(labels), len(labels)
    best = [kinds[max(range(size), key=scores[i * size : (i + 1) * size].__getitem__)] for i in range(len(held))]
    return mean([float(kind == example.kind) for kind, example in zip(best, held, strict=True)])


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Accuracy on new things with new labels; and with those of the tuning."""
    start, (trained, held) = tiny(), examples(seed)
    objective: Any = NLL()
    if arm == "method":
        both = [flipped(e, LABELS[kind], kind == e.kind) for e in trained for kind in (e.kind, e.wrong)]
        rows, objective, form = unpaired_rows(start, both), Flipped(), flipped
    else:
        rows, form = sft_rows(start, (direct(e, LABELS[e.kind]) for e in trained)), direct
    tuned = train(start, objective, rows, steps=scale(STEPS), seed=seed, lr=LR, batch_size=32)
    return {
        "accuracy": accuracy(tuned, held, NEW, form),
        "accuracy with known labels": accuracy(tuned, held, LABELS, form),
    }
