"""Decoding from a difference of logits: the target's minus a share of an assistant's, on the tokens that the target holds possible.

    logits = l_target - weight * l_assistant        where  p_target >= threshold * max p_target, and for at least threshold * V tokens

Ji et al. 2024 (S001, ULD, arXiv 2406.08607, section 3.3, with the filter of contrastive decoding, Li et al. 2023, arXiv 2210.15097): an assistant
that knows what is to go, and nothing else, takes it out of the target. In the released code generation excludes the other tokens, and scoring leaves
the target's logits as they are there; here they keep the target's order and are lowered together until none stands above a token that passed
(`outside="below"`), so that held text has a finite loss and greedy decoding is the same; "excluded" forbids them. With weight 0 the target's logits
come back exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tempering.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LogitDifference:
    """l_policy - weight * l_role on likely tokens, [R, V]."""

    weight: float = 0.8
    """The assistant's share."""
    threshold: float = 0.01
    """Of the likeliest token's probability: what a token must have to be changed; 0 changes all."""
    outside: Literal["below", "excluded"] = "below"
    """What becomes of the other tokens."""
    role: str = "assistant"
    """The role of the model that is subtracted."""

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise UserError(f"LogitDifference weight is {self.weight}: must be at least 0")
        if not 0 <= self.threshold <= 1:
            raise UserError(f"LogitDifference threshold is {self.threshold}: must be between 0 and 1")

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    def __call__(self, tokens_RL: Tensor, logits: Mapping[str, Tensor]) -> Tensor:
        import math

        target_RV, assistant_RV = logits["policy"], logits[self.role]
        changed_RV = target_RV - self.weight * assistant_RV
        if self.threshold == 0:
            return changed_RV
        least = max(1, int(self.threshold * target_RV.shape[-1]))
        bound_R1 = target_RV.amax(-1, keepdim=True) + math.log(self.threshold)
        kept_RV = target_RV >= bound_R1.minimum(target_RV.topk(least, -1).values[:, -1:])
        if self.outside == "excluded":
            return changed_RV.masked_fill(~kept_RV, -math.inf)
        lowest_R1 = changed_RV.masked_fill(~kept_RV, math.inf).amin(-1, keepdim=True)
        highest_R1 = target_RV.masked_fill(kept_RV, -math.inf).amax(-1, keepdim=True)
        return changed_RV.where(kept_RV, target_RV - (highest_R1 - lowest_R1).clamp(min=0))
