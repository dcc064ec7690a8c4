"""Sampling from the token-wise mixture of two models: p = w * p_policy + (1 - w) * p_other, mixed in probability at every token.

The next token is drawn from the policy with probability w and from the other model with probability 1 - w, given the same tokens so far; the log of
the mixture comes back as logits, so that temperature, top-k and top-p act on the mixture. This is linear interpolation of language models (Jelinek
and Mercer 1980), at token level. It is not the average of logits (a geometric mean, as in products of experts and contrastive decoding).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tempering.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """log(weight * p_policy + (1 - weight) * p_role), [R, V]."""

    weight: float = 0.5
    """The policy's share; 1 is the policy alone."""
    role: str = "other"
    """The role of the second model."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise UserError(f"Mixture weight is {self.weight}: must be between 0 and 1")

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    def __call__(self, tokens_RL: Tensor, logits: Mapping[str, Tensor]) -> Tensor:
        import torch

        ours_RV, other_RV = logits["policy"].log_softmax(-1), logits[self.role].log_softmax(-1)
        if self.weight == 1:
            return ours_RV
        if self.weight == 0:
            return other_RV
        return torch.logaddexp(ours_RV + math.log(self.weight), other_RV + math.log(1 - self.weight))
