"""Wanda: weights that are small, and multiply little, become 0; unstructured, or N of every M.

    score_ij = |W_ij| * ||X_j||_2,    X_j the inputs j of the layer over all tokens of some rows; the lowest of every row i go

Sun et al. 2023, arXiv 2306.11695 (ICLR 2024): one pass, no training, scores compared within one output. With "2:4" two of every four neighbouring
inputs stay, which hardware can make use of. The paper goes block by block and lets the next block see what the pruned ones give; here all inputs are
those of the whole model. Linear layers of the blocks are pruned, embeddings and head are not. Without activations it is magnitude pruning, row by
row. The zeros are stored as zeros, and training moves them again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from tempering.errors import UserError
from tempering.reshapes import Body, Seen

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Wanda:
    """Some weights of every linear layer become 0."""

    preserves: ClassVar[bool] = False
    looks: ClassVar[bool] = True
    sparsity: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """What share of the weights goes."""
    pattern: Annotated[str, Field(pattern=r"^([1-9]\d*:[1-9]\d*)?$")] = ""
    """N:M keeps N of every M neighbours instead, for example 2:4."""
    activations: bool = True
    """False judges by the weights alone."""

    def __call__(self, body: Body, seen: Seen | None) -> Body:
        assert seen is not None

        def pruned(block: int, name: str, weight: Tensor) -> Tensor:
            module = name.removesuffix(".weight")
            if module not in seen.inputs[block]:
                return weight
            score = weight.detach().abs().double() * (seen.inputs[block][module] if self.activations else 1)
            return weight.masked_fill(self._gone(score, name), 0)

        blocks = tuple({name: pruned(i, name, tensor) for name, tensor in block.items()} for i, block in enumerate(body.blocks))
        return replace(body, blocks=blocks)

    def _gone(self, score: Tensor, name: str) -> Tensor:
        """Which weights [out, in] go: the lowest of each row, or of each group of neighbours."""
        rows, inputs = score.shape
        size, gone = inputs, int(self.sparsity * inputs)
        if self.pattern:
            keep, size = map(int, self.pattern.split(":"))
            gone = size - keep
            if gone < 0 or inputs % size:
                raise UserError(f"--pattern {self.pattern}: {name} has {inputs} inputs; N must be at most M, and M divide {inputs}")
        groups = score.view(rows, inputs // size, size)
        lowest = groups.sort(dim=-1, stable=True).indices[..., :gone]
        return groups.new_zeros(groups.shape).scatter_(-1, lowest, 1).bool().view(rows, inputs)
