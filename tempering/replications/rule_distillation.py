"""A few answers under a rule, with all that the model thinks of them, teach the rule better than the same answers as text.

Yang et al. 2024 (arXiv 2311.08883) let a model that follows a rule in its prompt teach itself to follow it without; with few examples this beats
learning from the answers alone. Here the rule is a system turn, "Answer in capital letters.": builtin:tiny first learns to obey it, on instructions
of which half stand under it. Then both arms see 16 new instructions without the rule and their answers in capitals, in the same order for as many
steps: the baseline by cross-entropy, the method by the distributions of the model that sees the rule. Scored by the loss on such answers to held-out
instructions without the rule; the range ends at the entropy of single tokens. Beside it stands the loss under the rule, which is the teacher's own.
Both have the rate 3e-4: with a teacher of half as much training the baseline was as good with 1e-3 for half of the steps and worse for more, on seed
100, which is none of the seeds that count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tempering.data.taught import told_row
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.rule_distillation import RuleDistillation
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import loss, sft_rows, start, tiny, train
from tempering.types import Message, Policy, Record, Response, Role, Row
from tempering.worlds.instructions import Instructions

CLAIM = Claim(
    method="rule_distillation",
    catalogue=("S007",),
    title="A rule distilled from the model that sees it, against fine-tuning on the same 16 answers",
    claim="After the same few answers and steps, a model that was given the distributions under the rule has a lower loss on answers that follow it.",
    baseline="the same model fine-tuned on the same answers",
    metric="loss",
    smallest_effect=0.05,
    higher_is_better=False,
    range=(0.0, 3.9),
)
RULE = "Answer in capital letters."
TAUGHT, STEPS, RATE = 200, 20, 3e-4


def loud(records: Iterable[Record]) -> list[Record]:
    """The records with their answers in capitals."""
    return [replace(r, responses=(Response((Message("assistant", r.responses[0].messages[0].content.upper()),)),)) for r in records]


def under(records: Iterable[Record]) -> list[Record]:
    """Those records behind the rule."""
    return [replace(r, prompt=(Message("system", RULE), *r.prompt)) for r in loud(records)]


def obedient(seed: int, scale: Scale) -> Policy:
    """builtin:tiny after instructions of which every second one stands under the rule, and is answered so."""
    steps = scale(TAUGHT)
    inputs = {"claim": "rule_distillation", "seed": seed, "steps": steps}

    def make() -> Policy:
        base, records = tiny(), list(world(seed).records("train", 16 * steps))
        rows = sft_rows(base, records[::2]) + sft_rows(base, under(records[1::2]))
        return train(base, NLL(), rows, steps=steps, seed=seed, lr=2e-3)

    return start(inputs, make)


def world(seed: int) -> Instructions:
    """Instructions whose answers have letters."""
    return Instructions(tasks=("repeat", "first", "last", "reverse"), max_words=3, seed=seed)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Loss per token of answers in capitals."""
    # The first of the training split are what it learned to obey the rule on.
    begin, few = obedient(seed, scale), loud(list(world(seed).records("train", 16 * scale(TAUGHT) + 16))[-16:])
    held = list(world(seed).records("test", scale(120)))
    how = {"steps": scale(STEPS), "seed": seed, "lr": RATE}
    if arm == "baseline":
        tuned = train(begin, NLL(), sft_rows(begin, few), **how)
        beside = {"loss under the rule": loss(begin, sft_rows(begin, under(held))), "loss before": loss(begin, sft_rows(begin, loud(held)))}
    else:
        rows: list[Row] = [row for record in few if (row := told_row(record, begin.tokenizer, rule=RULE))]
        tuned, beside = train(begin, RuleDistillation(), rows, roles={"teacher": Role(begin.model)}, **how), {}
    return {"loss": loss(tuned, sft_rows(begin, loud(held))), **beside}
