"""Corrections of wrong solutions, learned beside right ones, teach more than right ones alone.

An et al. 2023 (arXiv 2310.20689) fine-tune on worked solutions and on corrections of wrong ones, and find better reasoning than from solutions alone,
at the same amount of data too. Here the reasoning is sums and differences of two-digit numbers worked place by place; a wrong solution has a last
result that is off by one or ten. Both arms take as many steps; in the method's every other row is a correction, with what was wrong named. The
baseline's rows are all worked solutions. The learning rate, one for both, is the only one that was tried, on seed 100, which is none of the seeds
that count; the baseline solves two thirds with it.
"""

from __future__ import annotations

from collections.abc import Iterator

from tempering.making import Making, answer, user
from tempering.methods.objectives.nll import NLL
from tempering.methods.streams.lema import LeMa
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import score, sft_rows, tiny, train
from tempering.types import Record
from tempering.worlds.arithmetic import Arithmetic
from tempering.worlds.base import rng

CLAIM = Claim(
    method="lema",
    catalogue=("S101",),
    title="Solutions and corrections against solutions alone, at as many steps",
    claim="After as many steps, a model that also learned to correct wrong solutions solves more held-out sums than one that saw solutions alone.",
    baseline="the same model fine-tuned on worked solutions alone",
    metric="accuracy",
    smallest_effect=0.05,
)
LR = 1e-3


def graded(world: Arithmetic, n: int) -> Iterator[Record]:
    """Problems with the worked solution and one that goes wrong at its last step."""
    for item in world.items("train", n):
        source = rng("lema", world.seed, item["id"])
        off = str(int(item["answer"]) + source.choice((-10, -1, 1, 10)))
        steps, last = item["completion"].removesuffix(f". Answer: {item['answer']}").rsplit(" = ", 1)
        assert last == item["answer"]
        yield Record(
            (user(item["prompt"]),), (answer(item["completion"]), answer(f"{steps} = {off}. Answer: {off}")), ((0, 1),), item["id"], item["id"]
        )


def arm(seed: int, arm: str, scale: Scale) -> float:
    """Accuracy on held-out problems."""
    world, start = Arithmetic(("add", "subtract"), steps=True, seed=seed), tiny()
    records = list(graded(world, 16 * scale(60)))
    # A correction for each solution: half of the problems make as many rows.
    lessons = LeMa()(records[: len(records) // 2], Making(seed)) if arm == "method" else records
    tuned = train(start, NLL(norm="segment_mean"), sft_rows(start, lessons), steps=scale(60), seed=seed, lr=LR)
    return score(tuned, world.probe("test", scale(150)))
