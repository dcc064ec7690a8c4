"""New tokens: a larger vocabulary whose new rows start at the mean of the old ones, saved with the model or the adapter.

The mean of the embeddings gives a new token a log-prob near the average, so that the old tokens' distribution moves little (Hewitt 2021,
"Initializing new word embeddings for pretrained language models"). It is computed, not drawn, so the same rows come out again when an adapter
is loaded.

Order matters: tokens are added to plain weights, then a scope is attached. A LoRA scope trains the new rows through PEFT's
`trainable_token_indices`, for which `new_token_targets(policy)` is the value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from tempering.errors import UserError

if TYPE_CHECKING:
    from tempering.types import Policy

INITS = ("mean",)


def resize_tokens(policy: Policy, new_tokens: Sequence[str], init: Literal["mean"] = "mean") -> list[int]:
    """Add tokens to a policy's tokenizer and rows to its embeddings, in place.

    Args:
        policy: plain weights, no scope attached yet.
        new_tokens: texts that become one token each, for example ["<think>", "</think>"].
        init: how the new rows start.

    Returns the ids of the new tokens, in order.

    Raises:
        UserError: a scope is attached already, or a token is empty, given twice, or in the vocabulary.
    """
    from tempering.models.load import Provenance, provenance, record

    if hasattr(policy.model, "peft_config") and hasattr(policy.model, "get_base_model"):
        raise UserError("new tokens must be added before an adapter is attached; add them to the base model, then attach the scope.")
    ids = add_tokens(policy.model, policy.tokenizer, new_tokens, init)
    known = provenance(policy.model) or Provenance(policy.source, policy.source, "")
    record(policy.model, replace(known, new_tokens=(*known.new_tokens, *new_tokens)))
    return ids


def add_tokens(model: Any, tokenizer: Any, new_tokens: Sequence[str], init: str = "mean") -> list[int]:
    """What `resize_tokens` does, for a bare model and tokenizer; nothing is recorded."""
    import torch
    from tokenizers import AddedToken

    if init not in INITS:
        raise UserError(f"init {init!r} for new tokens is not known; use one of {', '.join(INITS)}.")
    if isinstance(new_tokens, str) or not new_tokens:
        raise UserError(f"new tokens must be a list of texts, not {new_tokens!r}.")
    vocab = tokenizer.get_vocab()
    for i, token in enumerate(new_tokens):
        if not token or token.isspace():
            raise UserError(f"new token {i + 1} is empty; give a text such as '<think>'.")
        if token in vocab or token in new_tokens[:i]:
            raise UserError(f"new token {token!r} is in the vocabulary already or given twice; leave it out.")
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in new_tokens])
    ids = [int(tokenizer.convert_tokens_to_ids(token)) for token in new_tokens]

    # Rows that no token uses (a vocabulary padded to a round size) say nothing about a mean embedding.
    used = min(len(vocab), _rows(model))
    tied = model.get_output_embeddings() is not None and _weight(model.get_output_embeddings()) is _weight(model.get_input_embeddings())
    if max(ids) >= _rows(model):
        model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    with torch.no_grad():
        for layer in [model.get_input_embeddings()] + ([] if tied else [model.get_output_embeddings()]):
            if layer is None:
                continue
            for tensor in (_weight(layer), getattr(layer, "bias", None)):
                if tensor is not None:
                    tensor[ids] = tensor[:used].double().mean(0).to(tensor.dtype)
    return ids


def new_token_targets(policy: Policy) -> dict[str, list[int]] | None:
    """PEFT's `trainable_token_indices` for the tokens added by `resize_tokens`: module name -> ids; None where none were added.

    An output layer of its own gets an entry too; a tied one follows the input embeddings.
    """
    from tempering.models.load import provenance

    known = provenance(policy.model)
    if known is None or not known.new_tokens:
        return None
    model: Any = policy.model
    ids = [int(policy.tokenizer.convert_tokens_to_ids(token)) for token in known.new_tokens]
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    if layers[1] is None or _weight(layers[1]) is _weight(layers[0]):
        layers = layers[:1]
    names = {id(module): name for name, module in model.named_modules()}
    return {names[id(layer)].rpartition(".")[2]: ids for layer in layers}


def _weight(layer: Any) -> Any:
    return layer.weight


def _rows(model: Any) -> int:
    return model.get_input_embeddings().weight.shape[0]
