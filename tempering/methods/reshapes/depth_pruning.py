"""Depth pruning: blocks that turn the stream least are taken out.

    block influence of block i = 1 - mean cos(x_i, x_i+1)    over the tokens of some rows, x_i what goes into block i

Men et al. 2024, arXiv 2403.03853 (ShortGPT); one of the two measures for layers in Minitron (Muralidharan et al. 2024, arXiv 2407.14679), whose
other one is the loss without the block. The others are left as they are; more training, by distillation from the whole
model, is what makes the result good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from tempering.errors import UserError
from tempering.reshapes import Body, Seen


@dataclass(frozen=True)
class DepthPruning:
    """Without some blocks."""

    preserves: ClassVar[bool] = False
    looks: ClassVar[bool] = True
    drop: Annotated[int, Field(ge=0)] = 1
    """How many blocks go: those of the least influence; of equals the later one."""

    def __call__(self, body: Body, seen: Seen | None) -> Body:
        assert seen is not None
        layers = len(body.blocks)
        if self.drop >= layers:
            raise UserError(f"--drop {self.drop}: the model has {layers} blocks and needs one; drop fewer")
        order = sorted(range(layers), key=lambda i: (seen.turned[i], -i))
        return body.arranged(sorted(order[self.drop :]))
