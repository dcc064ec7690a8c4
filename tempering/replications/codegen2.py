"""A model trained on texts with spans moved to the end fills in what is missing in the middle, and still writes from left to right as well.

Nijkamp et al. 2023 (arXiv 2305.02309) train one left-to-right model on a mixture, half plain texts and half span corruption, so that it infills.
Here a text is two sentences about a person, each with the name, and the people of the test are in no training text. One of the two names is masked;
which of four names belongs there can be seen in the text after the mask, or before it. Both arms see the same texts in the same order for as many
steps. The method is asked as it was trained: the text with <mask_1>, then <sep><mask_1>, and each name with <eom>. The baseline, which has only
learned to go on, ranks the names behind what stands before the mask. Two things stand beside: how often the whole text is likeliest with the right
name, which needs a pass over the rest of the text for each name and says of the baseline what it knows but cannot write; and the loss on unmasked
texts. The learning rate is the better of 1e-3 (with half as many steps) and 3e-3 for both arms on seed 100, which is none of the seeds that count;
there, with the settings of now, the method filled in 0.39 right and the baseline 0.58: a model of this size does not learn to fill in so soon.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tempering.data.rendering import encode
from tempering.items import mean
from tempering.making import Making, written
from tempering.measure import logps_of
from tempering.methods.objectives.nll import NLL
from tempering.methods.streams.codegen2 import CodeGen2
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import loss, sft_rows, tiny, train
from tempering.types import Policy, Record
from tempering.worlds.base import rng
from tempering.worlds.people import People
from tempering.worlds.people_words import VALUES

CLAIM = Claim(
    method="codegen2",
    catalogue=("S041",),
    title="Half of the texts with spans moved to the end against none: a name in the middle",
    claim="After the same texts and steps, a model trained on the mixture finds a masked name among four more often.",
    baseline="the same model trained on the same texts as they are, choosing by what stands before the mask",
    metric="infilled",
    smallest_effect=0.05,
)
STEPS = 200
LR = 3e-3


@dataclass(frozen=True)
class Gap:
    """A text with a name taken out, and the names that it is chosen from, the right one first; each with the space before it, if there is one."""

    before: str
    after: str
    names: tuple[str, ...]


def two(text: str) -> str:
    """The first two sentences."""
    return ". ".join(text.split(". ")[:2]).removesuffix(".") + "."


def gaps(people: People) -> list[Gap]:
    """One text a person; the wrong names are those of the next three."""
    names, found = [person.name for person in people.people()], list[Gap]()
    for i, text in enumerate(map(two, people.texts())):
        match = rng("codegen2", people.seed, i).choice(list(re.finditer(f" ?{names[i]}", text)))
        space = " " * match[0].startswith(" ")
        among = tuple(space + names[(i + k) % len(names)] for k in range(4))
        found.append(Gap(text[: match.start()], text[match.end() :], among))
    return found


def right(policy: Policy, asked: Sequence[tuple[str, Sequence[str]]]) -> float:
    """How often the first of the continuations of a beginning is the likeliest."""
    front = policy.tokenizer.eos_token  # Of a text that begins with the mask.
    flat = [text for before, those in asked for text in (before or front, *those)]
    ids, pairs, at = encode(policy.tokenizer, flat), [], 0
    for _, those in asked:
        pairs += [(ids[at], ids[at + 1 + k]) for k in range(len(those))]
        at += 1 + len(those)
    found = iter([float(logp_T.sum()) for logp_T in logps_of(policy, pairs)])
    return mean([float(next(found) > max(next(found) for _ in those[1:])) for _, those in asked])


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """How often the right name is found; and what stands beside."""
    start, kinds = tiny(), tuple(VALUES)
    texts = [Record((), (written(two(text)),), id=str(i)) for i, text in enumerate(People(16 * scale(STEPS), seed, 20_000, kinds).texts())]
    made = CodeGen2(causal=0.5 if arm == "method" else 1.0)(texts, Making(seed))
    tuned = train(start, NLL(), sft_rows(start, made), steps=scale(STEPS), seed=seed, lr=LR)
    held = People(scale(200), seed, 40_000, kinds)
    asked = gaps(held)
    infill = right(tuned, [(f"{gap.before}<mask_1>{gap.after}<sep><mask_1>", [f"{name}<eom>" for name in gap.names]) for gap in asked])
    go_on = right(tuned, [(gap.before, gap.names) for gap in asked])
    plain = [Record((), (written(two(text)),), id=str(i)) for i, text in enumerate(held.texts())]
    return {
        "infilled": infill if arm == "method" else go_on,
        "by what stands before": go_on,
        "in the form of infilling": infill,
        "by the whole text": right(tuned, [(gap.before, [name + gap.after for name in gap.names]) for gap in asked]),
        "loss": loss(tuned, sft_rows(start, plain)),
    }
