"""Block expansion (LLaMA Pro): new blocks that change nothing yet, to learn something new in while the old ones are left alone.

    the blocks are cut into P groups; behind each stands a copy of its last block, with the output projections of attention and MLP set to 0

Wu et al. 2024, arXiv 2401.02415 (section 3.2): zero output projections make the new block the identity, because of the residual stream, and its
other weights, copies, make it learn fast. Only the new blocks are trained then: `temper run sft --model OUT --scope full --scope.only PATTERN`, with
the pattern that is told; taking them out again gives the old model back. Biases of the output projections are set to 0 too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from tempering.errors import UserError
from tempering.reshapes import Body, Seen

CATALOGUE = ("S162",)


@dataclass(frozen=True)
class BlockExpansion:
    """Identity blocks between the old ones."""

    preserves: ClassVar[bool] = True
    looks: ClassVar[bool] = False
    groups: Annotated[int, Field(ge=1)] = 2
    """How many blocks are added, one behind each group (the paper's P)."""

    def __call__(self, body: Body, seen: Seen | None) -> Body:
        return body.arranged(order := self.order(len(body.blocks))).silent(self.new(len(order) - self.groups))

    def order(self, layers: int) -> list[int]:
        """Which old block stands where."""
        if self.groups > layers:
            raise UserError(f"--groups {self.groups}: the model has {layers} blocks, which is fewer; ask for at most {layers}")
        ends = [layers * (group + 1) // self.groups - 1 for group in range(self.groups)]
        return [i for block in range(layers) for i in [block] * (1 + (block in ends))]

    def new(self, layers: int) -> list[int]:
        """Where the added blocks stand."""
        order = self.order(layers)
        return [i for i in range(1, len(order)) if order[i] == order[i - 1]]

    def told(self, layers: int) -> str:
        """How the new blocks of a model that had so many are trained alone."""
        new = "|".join(map(str, self.new(layers)))
        return f"to train the new blocks alone: --scope full --scope.only 'layers\\.({new})\\.'"
