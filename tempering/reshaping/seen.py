"""What goes through a model on some rows: norms of the inputs of its linear layers, of the stream's channels, and how far each block turns it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tempering.reshapes import Seen
from tempering.reshaping.anatomy import names_of


def see(model: Any, rows: Sequence[Sequence[int]]) -> Seen:
    """Forward passes only, one row at a time.

    Args:
        rows: token ids.
    """
    names = names_of(model)
    blocks = list(model.get_submodule(names.blocks))
    inputs: list[dict[str, Tensor]] = [{} for _ in blocks]
    stream = torch.zeros(model.config.hidden_size, dtype=torch.float64)
    # Cosines are of tokens, so their mean is over all of them.
    cosines, tokens, hooks = [0.0] * len(blocks), sum(map(len, rows)), []

    def squares(x: Tensor) -> Tensor:
        return x.detach().double().square().flatten(0, -2).sum(0)

    def reads(into: dict[str, Tensor], name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            into[name] = into.get(name, 0) + squares(args[0])

        return hook

    def normed(module: Any, args: Any, output: Any) -> None:
        stream.add_(squares(output))

    def turns(i: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            cosines[i] += float(torch.cosine_similarity(before.double(), after.double(), dim=-1).sum())

        return hook

    try:
        for i, block in enumerate(blocks):
            hooks += [block.get_submodule(name).register_forward_hook(reads(inputs[i], name)) for name in names.linear]
            hooks += [norm.register_forward_hook(normed) for name, norm in block.named_children() if name in names.norms]
            hooks.append(block.register_forward_hook(turns(i), with_kwargs=True))
        hooks.append(model.get_submodule(names.last).register_forward_hook(normed))
        with torch.no_grad():
            for row in rows:
                model(input_ids=torch.tensor([row]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    roots = tuple({name: total.sqrt() for name, total in of.items()} for of in inputs)
    return Seen(roots, stream.sqrt(), tuple(1 - cosine / tokens for cosine in cosines))
