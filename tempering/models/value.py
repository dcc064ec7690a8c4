"""A critic or reward model: a causal LM's body with one number per position instead of the vocabulary."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tempering.models.heads import body_and_head


class ValueModel(nn.Module):
    """The body of a language model with a linear head to one number; the signal "value" at t speaks of the state before token t.

    Args:
        model: a causal LM that `body_and_head` knows; its output head is not used.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        split = body_and_head(model)
        if split is None:
            raise ValueError(f"{type(model).__name__} cannot be split into body and head")
        self.backbone = model.base_model
        self.config = model.config
        self.value_head = nn.Linear(model.config.hidden_size, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(self, **inputs: Any) -> Tensor:
        """input_ids, position_ids [R, L] -> last hidden states [R, L, D]."""
        return self.backbone(**inputs).last_hidden_state
