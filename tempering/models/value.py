"""Reward models and critics: a causal LM's body with K numbers per position instead of the vocabulary."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from tempering.errors import UserError
from tempering.models.heads import body_and_head
from tempering.models.load import provenance, record
from tempering.types import Policy


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

    @classmethod
    def of(cls, classifier: Any) -> ValueModel:
        """The same weights as a transformers sequence classifier's, in place."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made.backbone, made.config, made.value_head = classifier.base_model, classifier.config, classifier.score
        return made

    def classifier(self, pad_token_id: int | None) -> Any:
        """A transformers sequence classifier with a copy of these weights, adapters folded in: it scores a text by its last token.

        Raises:
            UserError: transformers has no sequence classifier of this kind with such a head, or an adapter cannot be folded in.
        """
        from transformers import AutoModelForSequenceClassification

        backbone: Any = copy.deepcopy(self.backbone)
        if hasattr(backbone, "peft_config"):
            if not all(p.is_floating_point() for p in backbone.parameters()):
                raise UserError("an adapter cannot be folded into quantised weights; train the reward model on a base loaded without quantise")
            backbone = backbone.merge_and_unload()
        config = copy.deepcopy(self.config)
        config.num_labels, config.get_text_config().pad_token_id, config.pad_token_id = self.value_head.out_features, pad_token_id, pad_token_id
        try:
            made: Any = AutoModelForSequenceClassification.from_config(config, dtype=backbone.dtype)
        except ValueError:
            made = None
        if made is None or type(getattr(made, "score", None)) is not nn.Linear or made.score.bias is not None or self.value_head.bias is not None:
            raise UserError(f"transformers has no sequence classifier of model type {config.model_type} with a head like this, so it cannot be saved")
        setattr(made, made.base_model_prefix, backbone)
        made.score.weight.data = self.value_head.weight.detach().to(backbone.dtype).clone()
        return made.eval()

    def get_input_embeddings(self) -> Any:
        """The embedding layer, as a transformers model's method of this name."""
        return self.backbone.get_input_embeddings()

    def forward(self, **inputs: Any) -> Tensor:
        """input_ids, position_ids [R, L] -> last hidden states [R, L, D]."""
        return self.backbone(**inputs).last_hidden_state

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Recompute activations in the backward pass, as a transformers model's method of this name."""
        self.backbone.gradient_checkpointing_enable(**options)


def with_outputs(policy: Policy, outputs: int) -> Policy:
    """The policy with a new head for `outputs` numbers in the place of its vocabulary; a reward model with as many stays as it is.

    Raises:
        UserError: it is a reward model with another number, or cannot carry a value head.
    """
    model, origin = policy.model, provenance(policy.model)
    if isinstance(model, ValueModel):
        if model.value_head.out_features != outputs:
            raise UserError(
                f"{policy.name} is a reward model with {model.value_head.out_features} outputs, and {outputs} are asked for; take its base"
            )
        return policy
    made = ValueModel(model, outputs).eval()
    if origin is not None:
        record(made, origin)
    return replace(policy, model=made)
