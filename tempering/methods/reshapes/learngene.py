"""Learngene: models of any depth begin out of one block for each stage.

    stage s of the new model = its block again and again, `to`_s times; `of`_s blocks of the old model are the stage, of which the first is taken

Xia et al. 2024, arXiv 2404.16897 (SWS): an auxiliary model whose blocks share weights in each stage (`--scope tied`) is distilled from a large one.
With `--to 1,1,1` what is left is the learngene, one block a stage with embedding, last norm and head; with more, a descendant, whose blocks part ways
when it is trained. A descendant with the auxiliary model's own stages is that model to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tempering.errors import UserError
from tempering.reshapes import Body, Seen

CATALOGUE = ("S128",)


@dataclass(frozen=True)
class Learngene:
    """Other depths of the same stages."""

    preserves: ClassVar[bool] = False
    looks: ClassVar[bool] = False
    of: str = ""
    """Blocks of each stage in the model, with commas between; empty is a learngene, one block a stage."""
    to: str = ""
    """Blocks of each stage in the new model; empty makes the learngene."""

    def __call__(self, body: Body, seen: Seen | None) -> Body:
        n = len(body.blocks)
        of = _sizes("of", self.of) if self.of else (1,) * n
        to = _sizes("to", self.to) if self.to else (1,) * len(of)
        if sum(of) != n or len(to) != len(of):
            has = f"the model has {n} blocks, so sizes of --of must add up to that, and --to have as many"
            raise UserError(f"--of {','.join(map(str, of))} --to {','.join(map(str, to))}: {has}")
        return body.arranged([sum(of[:stage]) for stage, size in enumerate(to) for _ in range(size)])


def _sizes(flag: str, text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdigit() and int(word) for word in words):
        raise UserError(f"--{flag} {text}: give whole numbers of at least 1 with commas between, for example 2,2,1")
    return tuple(map(int, words))
