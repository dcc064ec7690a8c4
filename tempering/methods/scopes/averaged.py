"""Heterogeneous model averaging: nothing trains but K numbers, how far each group of blocks goes back to the model it came from.

    theta_k = a_k theta_base,k + (1 - a_k) theta_k,   a_k = mean K (sigmoid(m_k) + eps) / sum_j (sigmoid(m_j) + eps),   k = 1 .. K

Lin et al. 2023, arXiv 2309.06256 (S227, HMA): alignment costs skills that the base has, averaging with it gives some back, and not all depths cost
alike. The a_k are `mean` on average whatever m is, so what is learned is where to go back, not how far; m = 0 is plain averaging. The base's share is
a_k, as in the released code (the paper's text has 1 - a_k). What is outside the blocks, the embeddings, the last norm and the output layer, goes back
by `mean`. The paper trains m on the aligned model's best of n answers and adds a small penalty on |a_k - mean|; here the optimizer's weight decay on
m does that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from tempering.config import Value
from tempering.errors import UserError

if TYPE_CHECKING:
    import torch

    from tempering.models.averages import AveragedHandle

CATALOGUE = ("S227",)


class Averaged(Value):
    """Train the shares by which groups of blocks are averaged with `base`; all weights stay as they are."""

    kind: Literal["averaged"] = "averaged"
    base: str = ""
    """The model to go back to: a folder, hub id or builtin, of the same sizes; needed."""
    groups: int = Field(default=3, gt=0)
    """K: the blocks are cut into so many groups of equal depth (3 in the paper)."""
    mean: float = Field(default=0.2, ge=0, le=1)
    """The base's share, on average over the groups (0.2 in the released code)."""
    eps: float = Field(default=0.2, gt=0)
    """Keeps the shares apart from 0 (0.2 in the released code)."""

    @model_validator(mode="after")
    def _within(self) -> Self:
        most = self.mean * self.groups * (1 + self.eps) / (1 + self.groups * self.eps)
        if most > 1:
            raise ValueError(f"a group's share of the base could become {most:.2f}; raise eps, or lower mean or groups, until it is at most 1")
        return self

    def attach(self, model: torch.nn.Module) -> AveragedHandle:
        """Put the average in the place of every weight.

        Raises:
            UserError: no base, one of other sizes, or a model without numbered blocks, with fewer of them than groups, or with quantised weights.
        """
        from tempering import models

        if not self.base:
            raise UserError("scope averaged: name the model to go back to with --scope.base MODEL (the one that this model was tuned from)")
        return self.between(model, models.load(self.base, say=lambda _: None).model)

    def between(self, model: torch.nn.Module, base: torch.nn.Module) -> AveragedHandle:
        """What `attach` does, with a base that is there already."""
        from tempering.models.averages import AveragedHandle, Shares

        return AveragedHandle(model, base, Shares(self.groups, self.mean, self.eps), self.base)
