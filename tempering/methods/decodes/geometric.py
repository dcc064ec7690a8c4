"""Sampling from the token-wise geometric mixture of two models: p ~ p_policy^(1 - weight) * p_other^weight, normalised at every token.

The opponent of Nash-MD (Munos et al. 2023, arXiv 2312.00886, section 7), with the reference as the other model: a mean of log-probs, unlike
`mixture`, which mixes probabilities. At the level of whole answers the mixture of the paper's analysis is another one (its normaliser depends on all
tokens); token by token is how it is sampled there too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tempering.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

CATALOGUE = ("S051",)


@dataclass(frozen=True)
class Geometric:
    """(1 - weight) * log p_policy + weight * log p_role, normalised, [R, V]."""

    weight: float = 0.125
    """The other model's share, the paper's beta; 0 is the policy alone."""
    role: str = "reference"
    """The role of the second model."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise UserError(f"Geometric weight is {self.weight}: must be between 0 and 1")

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    def __call__(self, tokens_RL: Tensor, logits: Mapping[str, Tensor]) -> Tensor:
        ours_RV, other_RV = logits["policy"].log_softmax(-1), logits[self.role].log_softmax(-1)
        # Not a product with 0, which has no log where a model gives a token no chance.
        if self.weight in (0, 1):
            return other_RV if self.weight else ours_RV
        return ((1 - self.weight) * ours_RV + self.weight * other_RV).log_softmax(-1)
