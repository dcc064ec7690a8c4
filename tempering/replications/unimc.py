"""A model that judges each option in a branch of its own chooses better on questions that it was not tuned on than one that answers with a letter.

Yang et al. 2022 (arXiv 2210.08590) turn tasks into multiple choice where options do not see each other and are ranked by how much the model wants to
say yes behind each, and find better zero-shot accuracy than that of generative models. Here the questions are about the hundred people whom
builtin:tiny knows, with three wrong options of the same kind (0.25 by chance). Both arms are tuned on questions about 50 of them, the same ones in
the same order for as many steps, and asked about the other 50. The baseline reads the options behind letters and answers with a letter; the choice
is the likeliest letter. To rank options by their own likelihood, which is how the model learned the facts, is right nearly always and leaves nothing
to gain; it stands beside, of the model before tuning. Not the paper's: its tests are on other tasks than those trained on. That was tried first,
with 120 steps on seed 100, which is none of the seeds that count: tuned on three kinds of facts, neither arm was above chance on the other three.
The learning rate, one for both, is the only one that was tried there.
"""

from __future__ import annotations

from tempering.data import options_row
from tempering.items import mean
from tempering.making import answer, user
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.unimc import UniMC
from tempering.methods.probes.multiple_choice import ChoiceItem, MultipleChoice
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import TRAINING, score, sft_rows, tiny, train
from tempering.scored import scored
from tempering.types import Policy, Record, Row
from tempering.worlds.base import Item, rng
from tempering.worlds.people import People
from tempering.worlds.people_words import VALUES

CLAIM = Claim(
    method="unimc",
    catalogue=("S087",),
    title="UniMC against letters: multiple choice about people of whom the tuning asked nothing",
    claim="After the same questions and steps, choosing the option with the highest logit of yes is right more often than the likeliest letter.",
    baseline="the same model tuned to answer the same questions, options behind letters, with a letter",
    metric="accuracy",
    smallest_effect=0.05,
)
STEPS = 80
LR = 1e-3


def lettered(item: Item) -> Record:
    """The question as `MultipleChoice(normalise="letter")` asks it, and the letter."""
    lines = [item["question"], *(f"{letter}. {choice}" for letter, choice in zip("ABCD", item["choices"], strict=True))]
    return Record((user("\n".join(lines)),), (answer("ABCD"[item["answer"]]),), id=item["id"])


def branches(policy: Policy, items: list[Item]) -> list[Row]:
    """A row of four options for each question."""
    found = []
    for item in items:
        best = item["answer"]
        better = tuple((best, i) for i in range(len(item["choices"])) if i != best)
        record = Record((user(item["question"]),), tuple(map(answer, item["choices"])), better, item["id"], item["id"])
        found.append(options_row(record, policy.tokenizer))
    return found  # type: ignore[return-value] # Nothing is too long here.


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Accuracy on questions about people of whom the tuning asked nothing, and about the others."""
    start, world, known = tiny(), People(100, kinds=tuple(VALUES)), set(rng("unimc", seed).sample(range(100), 50))
    learned, old, new = (
        [item for item in world.choice_items(split) if (int(item["id"].split(".")[0][1:]) in known) is wanted]
        for split, wanted in (("train", True), ("test", True), ("test", False))
    )
    held = {"accuracy": new[: scale(200)], "accuracy on the people tuned on": old[: scale(100)]}
    how = {"steps": scale(STEPS), "seed": seed, "lr": LR}
    if arm == "method":
        tuned = train(start, UniMC(), branches(start, learned), **how)  # type: ignore[arg-type] # Whole steps and seeds.
        values = {name: scored(tuned, UniMC(), branches(start, items), TRAINING, "value") for name, items in held.items()}
        return {name: mean([float(max(v) == v[i["answer"]]) for v, i in zip(values[name], items, strict=True)]) for name, items in held.items()}
    tuned = train(start, NLL(), sft_rows(start, map(lettered, learned)), **how)  # type: ignore[arg-type]
    found = {name: _choice(tuned, items, "letter") for name, items in held.items()}
    return {**found, "accuracy by likelihood before tuning": _choice(start, held["accuracy"], "byte")}


def _choice(policy: Policy, items: list[Item], normalise: str) -> float:
    return score(policy, MultipleChoice(items=tuple(ChoiceItem(**item) for item in items), normalise=normalise, calibrated=False))  # type: ignore
