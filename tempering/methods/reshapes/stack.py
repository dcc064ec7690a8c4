"""G_stack: a deeper model begins as copies of a trained one, block behind block.

    block_i of the new model = block_(i mod L) of the old one,    i = 0 .. times L - 1

Du et al. 2024, arXiv 2405.15319 ("Stacking Your Transformers"): of four ways to grow (copy, learn, zero, random) depthwise copying of whole stacks
speeds up pre-training most, with a growth factor of 4. Embedding, last norm and head are copied. `order = "each"` repeats every block in place
instead (1 1 2 2 ...), as interpolation does. The function is another one right after; it is a start for more training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tempering.reshapes import Body, Seen

CATALOGUE = ("S158",)


@dataclass(frozen=True)
class Stack:
    """Several times as many blocks, all copies."""

    preserves: ClassVar[bool] = False
    looks: ClassVar[bool] = False
    times: Annotated[int, Field(ge=1)] = 2
    """How many times as deep (the paper's g)."""
    order: Literal["whole", "each"] = "whole"
    """whole: the stack again behind itself; each: every block again behind itself."""

    def __call__(self, body: Body, seen: Seen | None) -> Body:
        blocks = range(len(body.blocks))
        return body.arranged([*blocks] * self.times if self.order == "whole" else [i for i in blocks for _ in range(self.times)])
