"""What stands inside a model: the hidden states of every layer at the last token of a text, and the output head on any of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tempering.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from tempering.types import Policy


def last_states(policy: Policy, texts: Sequence[Sequence[int]], batch_size: int = 32) -> Tensor:
    """The states after the last token of each text, of every layer: float32 [N, layers + 1, H] (0: the embeddings; the last: after the last norm).

    Texts of one length go through together, so nothing is padded and any model will do; of one that is too long, the end.

    Args:
        texts: token ids, at least one each.
    """
    import torch

    from tempering.models import body_and_head
    from tempering.sample import max_positions, models_of

    limit = max_positions(models_of(policy))
    texts = [text[-limit:] for text in texts] if limit else texts
    split = body_and_head(policy.model)
    # Without the head where it can be left out.
    model = policy.model if split is None else split.inner
    device = next(policy.model.parameters()).device
    by_length: dict[int, list[int]] = {}
    for i, text in enumerate(texts):
        by_length.setdefault(len(text), []).append(i)
    found: list[Any] = [None] * len(texts)
    with torch.no_grad():
        for alike in by_length.values():
            for start in range(0, len(alike), batch_size):
                some = alike[start : start + batch_size]
                ids_RL = torch.tensor([list(texts[i]) for i in some], device=device)
                layers = model(input_ids=ids_RL, use_cache=False, output_hidden_states=True).hidden_states
                for i, states_LH in zip(some, torch.stack([layer[:, -1] for layer in layers], 1).float().cpu(), strict=True):
                    found[i] = states_LH
    return torch.stack(found)


def lens(policy: Policy) -> Callable[[Tensor], Tensor]:
    """States of every layer [N, layers + 1, H] -> logits [N, layers + 1, V], as if each layer were the last (nostalgebraist's logit lens, 2020).

    All layers but the last go through the model's last norm first, which the last has behind it.

    Raises:
        UserError: no last norm or output layer could be found.
    """
    import torch

    from tempering.models import body_and_head

    split = body_and_head(policy.model)
    causal: Any = policy.model
    causal = causal.get_base_model() if hasattr(causal, "get_base_model") else causal
    inner = getattr(causal, getattr(causal, "base_model_prefix", ""), None) if split is None else split.inner
    head = causal.get_output_embeddings() if split is None else split.head
    norms = [module for module in inner.children() if "norm" in type(module).__name__.lower()] if inner is not None else []
    if not norms or head is None:
        raise UserError(f"a {type(causal).__name__} has no last norm or output layer that could be found, so its layers cannot be read by its head")
    weight = next(norms[-1].parameters())

    def read(states_NLH: Tensor) -> Tensor:
        states = states_NLH.to(weight)
        with torch.no_grad():
            return head(torch.cat([norms[-1](states[:, :-1]), states[:, -1:]], 1)).float().cpu()

    return read


def embedded(policy: Policy, texts: Sequence[str]) -> Tensor:
    """The mean input embedding of each text's tokens, float32 [N, E]."""
    import torch

    from tempering.items import answer_ids

    table: Any = policy.model.get_input_embeddings()  # type: ignore[operator] # Every transformers model has it.
    device = next(policy.model.parameters()).device
    return torch.stack([table(torch.tensor(answer_ids(policy, text), device=device)).detach().float().mean(0).cpu() for text in texts])
