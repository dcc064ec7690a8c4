"""Specialists that are fused by a gate: a row more in each one's output layer, and a scope in which these rows alone train.

What a specialist bids for a token is a linear function of its last state, and so is every logit: the bid is one logit more, of no word. So gate and
specialist are one plain model, and what is known about logits (signals of roles, decode chains, late losses, files) holds for it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tempering.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tempering.types import Handle, Policy


def bidding(model: Any) -> Any:
    """A copy of a model whose output layer has a last row of zeros: all specialists bid alike as long as nothing moves it.

    Raises:
        UserError: the model has no output layer of its own kind (a reward model).
    """
    import torch

    made = copy.deepcopy(model)
    if not hasattr(made, "get_output_embeddings") or made.get_output_embeddings() is None:
        raise UserError(f"a {type(model).__name__} has no output layer over words, so it is no specialist; give language models")
    made.resize_token_embeddings(made.get_output_embeddings().weight.shape[0] + 1, mean_resizing=False)
    layer = made.get_output_embeddings()
    with torch.no_grad():
        for rows in (made.get_input_embeddings().weight, layer.weight, *([layer.bias] if layer.bias is not None else [])):
            rows[-1] = 0.0
    return made.eval()


def together(specialists: Sequence[Policy]) -> Policy:
    """The first specialist with the others beside it as roles "specialist2", ..., fused by bids that are all 0. The ones given stay as they are."""
    from tempering.methods.decodes.ultra_fuser import UltraFuser

    first, *others = specialists
    roles = {f"specialist{i + 2}": bidding(other.model) for i, other in enumerate(others)}
    return replace(first, model=bidding(first.model), handle=None, decode=(UltraFuser(tuple(roles)),), roles=roles)


class BidsAlone:
    """Train the last row of the output layer; every other weight stays to the bit under an optimizer without weight decay."""

    kind = "bids alone"

    def attach(self, model: torch.nn.Module) -> Handle:
        """Freeze all but the output layer, and stop the gradient of its other rows."""
        import re

        from tempering.methods.scopes.full import Full

        weight = model.get_output_embeddings().weight  # type: ignore[operator, union-attr] # Every transformers model has it.
        (name,) = [name for name, p in model.named_parameters() if p is weight]
        handle: Any = Full(only=f"^{re.escape(name)}$").attach(model)

        def last(gradient: Tensor) -> Tensor:
            kept = gradient.new_zeros(gradient.shape)
            kept[-1] = gradient[-1]
            return kept

        hook = weight.register_hook(last)
        # Whoever trains the model after this trains all of it.
        handle.finish = hook.remove
        return handle
