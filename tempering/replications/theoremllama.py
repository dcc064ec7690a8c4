"""Proofs are learned better after easier proofs, in order, with the words of each step as comments.

Wang et al. 2024 (arXiv 2407.03203) train a prover of Lean on proofs with the steps in words as comments (bootstrapping), each after other examples
whose proofs are trained too (block training), from easy to hard (curriculum). Here a theorem says that a row of letters can be put into order; a
proof is the row after each swap of two neighbours, and a checker accepts it if every line follows from the one before and the last is in order.
Both arms train on the same proofs as often: the method in blocks of four, the baseline one by one with four times as many in a step. The method's
proofs are longer by their comments. Proofs of held-out theorems are written greedily, without examples, and checked without their comments. Each
part of the method alone stands beside. The learning rate is the better of 1e-3 and 3e-3 for both arms on seed 100, which is none of the seeds that
count; there the method hardly proved anything with either, nor with twice the steps at 1e-3.
"""

from __future__ import annotations

from collections.abc import Iterator

from tempering.data.streams import Phases, Shuffled
from tempering.making import Making, answer, user
from tempering.methods.objectives.nll import NLL
from tempering.methods.streams.theoremllama import TheoremLlama
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import score, sft_rows, tiny, train
from tempering.types import Record
from tempering.worlds.base import Item, rng
from tempering.worlds.graded import Graded

CLAIM = Claim(
    method="theoremllama",
    catalogue=("S229",),
    title="Blocks, a curriculum and comments against plain fine-tuning on proofs",
    claim="After training on the same proofs as often, more held-out theorems are proved with blocks, a curriculum and comments.",
    baseline="the same model fine-tuned on the proofs one by one, shuffled, without comments",
    metric="proved",
    smallest_effect=0.05,
)
BLOCK = 4
STEPS = 60
SIZE = 3
"""Letters of a theorem."""
LR = 3e-3
_LETTERS = "abcdefghijkl"


def proof(row: str) -> tuple[list[str], list[str]]:
    """The lines of a proof by bubble sort, and what each does in words."""
    lines, steps, letters = [], [], list(row)
    while letters != sorted(letters):
        i = next(i for i in range(len(letters) - 1) if letters[i] > letters[i + 1])
        steps.append(f"swap {letters[i]} and {letters[i + 1]}")
        letters[i], letters[i + 1] = letters[i + 1], letters[i]
        lines.append(" ".join(letters))
    return lines, steps


def theorems(seed: int) -> Iterator[str]:
    """Rows of different letters that are not in order, without repetition."""
    source, seen = rng("theoremllama", seed), set[str]()
    while True:
        row = "".join(source.sample(_LETTERS, SIZE))
        if row not in seen and list(row) != sorted(row):
            seen.add(row)
            yield row


def valid(text: str, item: Item) -> bool:
    """Whether every line is the one before with two neighbours swapped, and the last is in order."""
    row = str(item["row"])
    for line in TheoremLlama.strip(text).strip().split("\n"):
        after = line.replace(" ", "")
        if after not in [row[:i] + row[i + 1] + row[i] + row[i + 2 :] for i in range(len(row) - 1)]:
            return False
        row = after
    return list(row) == sorted(row)


def proved(seed: int, scale: Scale, how: TheoremLlama, comments: bool) -> float:
    """Share of held-out theorems that are proved after a training."""
    start, steps, source = tiny(), scale(STEPS), theorems(seed)
    held = [next(source) for _ in range(scale(100))]
    records = []
    for i in range(8 * steps):
        row = next(source)
        lines, words = proof(row)
        tags = {"steps": words} if comments else {}
        records.append(Record((user(_asked(row)),), (answer("\n".join(lines)),), id=str(i), tags=tags))
    made = list(how(records, Making(seed)))
    stages = [[record for record in made if record.tags["phase"] == i] for i in range(how.stages)]
    phases = [(Shuffled(sft_rows(start, stage), 4 * BLOCK // how.block, seed), steps // how.stages) for stage in stages if stage]
    tuned = train(start, NLL(), Phases(phases), steps=steps, seed=seed, lr=LR)
    items = tuple({"id": row, "row": row, "prompt": _asked(row), "answer": "\n".join(proof(row)[0])} for row in held)
    return score(tuned, Graded("proved", items, valid, max_new_tokens=120))


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Share of held-out theorems that are proved; of the method also with one of its parts alone."""
    if arm == "baseline":
        return {"proved": proved(seed, scale, TheoremLlama(block=1, stages=1), comments=False)}
    return {
        "proved": proved(seed, scale, TheoremLlama(block=BLOCK), comments=True),
        "proved with blocks alone": proved(seed, scale, TheoremLlama(block=BLOCK, stages=1), comments=False),
        "proved with the curriculum alone": proved(seed, scale, TheoremLlama(block=1), comments=False),
        "proved with comments alone": proved(seed, scale, TheoremLlama(block=1, stages=1), comments=True),
    }


def _asked(row: str) -> str:
    return f"Put into order: {' '.join(row)}"
