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

    Args:
        texts: token ids, at least one each.
    Raises:
        UserError: the model cannot be split into body and head.
    """
    import torch

    inner = _split(policy).inner
    device = next(policy.model.parameters()).device
    found: list[Any] = [None] * len(texts)
    # Alike in length, so that little is padded.
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in range(0, len(order), batch_size):
        some = order[start : start + batch_size]
        width = max(len(texts[i]) for i in some)
        ids_RL = torch.tensor([[*texts[i], *[0] * (width - len(texts[i]))] for i in some], device=device)
        end_R = torch.tensor([len(texts[i]) - 1 for i in some], device=device)
        # Padding stands behind what is read, and attention looks back only.
        mask_RL = (torch.arange(width, device=device)[None] <= end_R[:, None]).long()
        out = inner(input_ids=ids_RL, attention_mask=mask_RL, use_cache=False, output_hidden_states=True)
        states_RLH = torch.stack([layer[torch.arange(len(some), device=device), end_R] for layer in out.hidden_states], 1)
        for row, i in enumerate(some):
            found[i] = states_RLH[row].detach().float().cpu()
    return torch.stack(found)


def lens(policy: Policy) -> Callable[[Tensor], Tensor]:
    """States of every layer [N, layers + 1, H] -> logits [N, layers + 1, V], as if each layer were the last (nostalgebraist's logit lens, 2020).

    All layers but the last go through the model's last norm first, which the last has behind it.
    """
    import torch

    split = _split(policy)
    norms = [module for module in split.inner.children() if "norm" in type(module).__name__.lower()]
    if not norms:
        raise UserError(f"a {type(policy.model).__name__} has no last norm that could be found, so its layers cannot be read by its head")
    weight = next(norms[-1].parameters())

    def read(states_NLH: Tensor) -> Tensor:
        states = states_NLH.to(weight)
        whole = torch.cat([norms[-1](states[:, :-1]), states[:, -1:]], 1)
        return split.head(whole).float()

    return read


def embedded(policy: Policy, texts: Sequence[str]) -> Tensor:
    """The mean input embedding of each text's tokens, float32 [N, E]."""
    import torch

    from tempering.items import answer_ids

    table: Any = policy.model.get_input_embeddings()  # type: ignore[operator] # Every transformers model has it.
    device = next(policy.model.parameters()).device
    return torch.stack([table(torch.tensor(answer_ids(policy, text), device=device)).detach().float().mean(0).cpu() for text in texts])


def _split(policy: Policy) -> Any:
    from tempering.models import body_and_head

    split = body_and_head(policy.model)
    if split is None:
        raise UserError(f"a {type(policy.model).__name__} cannot be split into body and head, so what its layers hold cannot be read")
    return split
