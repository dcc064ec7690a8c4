"""Reward models and critics: a causal LM's body with K numbers per position instead of the vocabulary."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tempering.errors import UserError
from tempering.models.heads import body_and_head


class ValueModel(nn.Module):
    """The body of a language model with a linear head to K numbers.

    The signals "value" [T] and "values" [T, K] at t speak of the state before token t (a critic), "reward" [T] and "rewards" [T, K] of the state
    after it (a reward model: the last token's is the answer's).

    Args:
        model: a causal LM that `body_and_head` knows; its output head is not used.
        outputs: K.
        bias: give the head a bias. `transformers` sequence classifiers have none, so a model with one cannot be saved as such.

    Raises:
        UserError: the model cannot be split into body and head.
    """

    def __init__(self, model: Any, outputs: int = 1, bias: bool = False) -> None:
        super().__init__()
        if body_and_head(model) is None:
            raise UserError(f"a {type(model).__name__} cannot be split into body and head, so it cannot carry a value head; take another model")
        self.backbone = model.base_model
        self.config = model.config
        self.value_head = nn.Linear(model.config.get_text_config().hidden_size, outputs, bias=bias)
        nn.init.zeros_(self.value_head.weight)
        if bias:
            nn.init.zeros_(self.value_head.bias)
        self.value_head.to(next(self.backbone.parameters()).device)

    def forward(self, **inputs: Any) -> Tensor:
        """input_ids, position_ids [R, L] -> last hidden states [R, L, D]."""
        return self.backbone(**inputs).last_hidden_state

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Recompute activations in the backward pass, as a transformers model's method of this name."""
        self.backbone.gradient_checkpointing_enable(**options)
