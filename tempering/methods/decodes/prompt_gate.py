"""A gate on the prompt: what a classifier flags is answered by another model, everything else by the policy, to the bit.

    p(flagged | prompt) = sigmoid( bias + sum of weights[v] over the distinct tokens v of the prompt ) >= threshold

The classifier of Liu et al. 2024 (S043, ECO, arXiv 2406.07933, section 3.1) in its smallest form, a logistic regression on which tokens occur; the
other model is one whose prompt embeddings are corrupted (`forgetting.corrupt`). The prompt is what stands before the last `header`, the tokens with
which an answer begins; where there is none, all tokens so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tempering.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PromptGate:
    """The logits of `role` where the prompt is flagged, the policy's elsewhere, [R, V]."""

    weights: tuple[float, ...] = ()
    """By token id; tokens beyond the last weigh nothing."""
    bias: float = 0.0
    threshold: float = 0.5
    """The probability from which a prompt is flagged; above 1 none is."""
    header: tuple[int, ...] = ()
    """Token ids between a prompt and its answer."""
    role: str = "corrupted"
    """Who answers flagged prompts."""

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "weights", tuple(float(w) for w in self.weights))
            object.__setattr__(self, "header", tuple(int(t) for t in self.header))
        except (TypeError, ValueError):
            raise UserError("PromptGate: weights are numbers by token id, and header is a list of token ids") from None

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    def probability(self, tokens_RL: Tensor) -> Tensor:
        """That each row's prompt is to be flagged [R]; tokens [R, L] with -1 for padding."""
        import torch

        rows, length = tokens_RL.shape
        size = len(self.header)
        ends_R1 = torch.full((rows, 1), length, device=tokens_RL.device)
        if 0 < size <= length:
            header = torch.tensor(self.header, device=tokens_RL.device)
            here_RN = (tokens_RL.unfold(1, size, 1) == header).all(-1)
            last_R1 = (here_RN * torch.arange(1, here_RN.shape[1] + 1, device=tokens_RL.device)).amax(1, keepdim=True)
            ends_R1 = ends_R1.where(last_R1 == 0, last_R1 - 1)
        counted_RL = (torch.arange(length, device=tokens_RL.device) < ends_R1) & (tokens_RL >= 0) & (tokens_RL < len(self.weights))
        # One place more, for what does not count.
        weights = torch.tensor([*self.weights, 0.0], device=tokens_RL.device)
        occurs_RV = torch.zeros(rows, len(weights), device=tokens_RL.device)
        occurs_RV.scatter_(1, tokens_RL.where(counted_RL, len(self.weights)), 1.0)
        return torch.sigmoid(occurs_RV @ weights + self.bias)

    def __call__(self, tokens_RL: Tensor, logits: Mapping[str, Tensor]) -> Tensor:
        flagged_R = self.probability(tokens_RL) >= self.threshold
        return logits[self.role].where(flagged_R[:, None], logits["policy"])
