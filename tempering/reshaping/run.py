"""A reshape from beginning to end: look if it wants to, change the weights, put them together, and try what should compute the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch

from tempering.errors import UserError
from tempering.models.load import Provenance, record
from tempering.models.save import plain_model
from tempering.reshapes import Reshape
from tempering.reshaping.anatomy import built, taken
from tempering.reshaping.seen import see
from tempering.types import Policy

CLOSE = {torch.float32: 1e-3, torch.float64: 1e-3}
"""How far log-probs of the same function may lie apart by rounding (norms compute in float32); 0.1 in half precision."""


def reshape(policy: Policy, method: Reshape, rows: Sequence[Sequence[int]] = (), say: Callable[[str], None] = print) -> Policy:
    """A new model; the one given stays as it is.

    Args:
        policy: an adapter is folded in first.
        method: a value of methods/reshapes.
        rows: token ids that importance is judged on, for methods that look.
    Raises:
        UserError: an architecture that is not known, a shape that cannot be, no rows for a method that looks, or a function that did not stay.
    """
    model = plain_model(policy)
    if method.looks and not any(rows):
        raise UserError("this judges importance by what goes through the model; give it rows to read")
    with torch.no_grad():
        body = taken(model)
        made = built(method(body, see(model, rows) if method.looks else None), model)
    say(f"{_counted(model)} -> {_counted(made)}")
    if method.preserves:
        far = distance(model, made)
        if not far <= CLOSE.get(model.dtype, 0.1):
            raise UserError(f"the new model should compute what the old one does, and its log-probs differ by up to {far:.2g}; nothing was written")
        say(f"the same function: log-probs differ by at most {far:.1g}")
    settings = ", ".join(f"{field.name}={getattr(method, field.name)}" for field in fields(method))  # type: ignore[arg-type]
    record(made, Provenance("", "", "", (f"made of {policy.source or policy.name} by {type(method).__name__}({settings})",)))
    return Policy(made, policy.tokenizer, name=policy.name)


def distance(a: Any, b: Any) -> float:
    """The largest difference of log-probs of two models on some random tokens."""
    ids = torch.randint(a.config.vocab_size, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, other = (model(input_ids=ids, use_cache=False).logits.double().log_softmax(-1) for model in (a, b))
    return float((one - other).abs().max())


def _counted(model: Any) -> str:
    config = model.config
    heads = getattr(config, "num_key_value_heads", None)
    shape = f"{config.num_hidden_layers} layers, width {config.hidden_size}, {config.intermediate_size} neurons, {config.num_attention_heads} heads"
    zeros = sum(int((p == 0).sum()) for p in model.parameters())
    total = sum(p.numel() for p in model.parameters())
    more = f", {zeros / total:.0%} of them 0" if zeros > total / 100 else ""
    return f"{total:,} weights ({shape}{f' on {heads}' if heads else ''}){more}"
