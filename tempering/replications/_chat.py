"""Models for claims about chat vectors: one start, its instruction tuning, and its continued pretraining.

The start is builtin:tiny, which answers with a bare value. Instruction tuning teaches it to answer in sentences, about the hundred people whom it
knows; continued pretraining is plain biographies of forty strangers.
"""

from __future__ import annotations

from tempering.methods.objectives.nll import NLL
from tempering.proof.claims import Scale
from tempering.proof.small import loss, sft_rows, start, tiny, train
from tempering.types import Policy, Row
from tempering.worlds.people import People

STEPS, TUNING, READING = 60, 1e-3, 3e-3


def strangers(seed: int) -> People:
    """Forty people of the biographies, asked for sentences."""
    return People(40, seed=seed, start=20_000, style="sentence")


def tuned(seed: int, scale: Scale) -> Policy:
    """The start after instruction tuning."""
    base, steps = tiny(), scale(STEPS)
    rows = sft_rows(base, People(100, style="sentence").records("train"))
    inputs = {"claim": "chat", "part": "tuned", "seed": seed, "steps": steps, "lr": TUNING}
    return start(inputs, lambda: train(base, NLL(), rows, steps=steps, seed=seed, lr=TUNING))


def biographies(policy: Policy, seed: int) -> list[Row]:
    """Ten of each stranger, in different words and orders."""
    return sft_rows(policy, [record for version in range(10) for record in strangers(seed).text_records(version=version)], train_on="all")


def read(policy: Policy, name: str, seed: int, scale: Scale) -> Policy:
    """The model after continued pretraining; made once under this name."""
    steps = scale(STEPS)
    inputs = {"claim": "chat", "part": f"{name}, read", "seed": seed, "steps": steps, "lr": [TUNING, READING]}
    return start(inputs, lambda: train(policy, NLL(), biographies(policy, seed), steps=steps, seed=seed, lr=READING))


def asked(policy: Policy, people: People, scale: Scale) -> float:
    """Loss per token of the right answers in sentences, to questions in unseen wordings."""
    return loss(policy, sft_rows(policy, people.records("test", scale(200))))
