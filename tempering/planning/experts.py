"""Experts of a mixture without contents: nobody can say where a router sends a token, so every expert gets as many tokens as any other.

The bytes are those of transformers' grouped products, which sort tokens by expert: a copy of each token for each of its experts, and what they say.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

NAME = "tempering_even"


def install(config: Any) -> None:
    """Have a model of this configuration, made for a plan, compute its experts so."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    if NAME not in ALL_EXPERTS_FUNCTIONS:
        ALL_EXPERTS_FUNCTIONS.register(NAME, even)
    config._experts_implementation = NAME


def even(self: Any, hidden_TH: Tensor, top_k_index_TK: Tensor, top_k_weights_TK: Tensor) -> Tensor:
    """What the experts say, tokens in turn taken for theirs; rows that fill up the last expert's share are cut off again."""
    tokens, k = top_k_index_TK.shape
    chosen_SH = hidden_TH.repeat_interleave(k, 0)
    share = F.pad(chosen_SH, (0, 0, 0, -len(chosen_SH) % self.num_experts)).view(self.num_experts, -1, hidden_TH.shape[-1])
    inner = _product(self, share, "gate_up_proj" if self.has_gate else "up_proj")
    inner = self._apply_gate(inner) if self.has_gate else self.act_fn(inner)
    said_SH = _product(self, inner, "down_proj").flatten(0, 1)[: tokens * k]
    if self.has_post_expert_norm:
        said_SH = self.post_expert_norm(said_SH)
    return (said_SH * top_k_weights_TK.reshape(-1, 1)).view(tokens, k, -1).sum(1).to(hidden_TH.dtype)


def _product(self: Any, x: Tensor, name: str) -> Tensor:
    weight = getattr(self, name)
    found = x @ (weight if self.is_transposed else weight.transpose(1, 2))
    return found + getattr(self, f"{name}_bias")[:, None] if self.has_bias else found
