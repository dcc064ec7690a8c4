"""What claims about merges share: a merge of models in memory, by the values that `temper merge` runs."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from tempering.merges import Merge
from tempering.merging.run import draws
from tempering.types import Policy


def merged(method: Merge, models: Sequence[Policy], base: Policy | None = None, seed: int = 0) -> Policy:
    """The merge of models of one shape, as a new one."""
    made = copy.deepcopy(models[0].model)
    inputs = [dict(one.model.named_parameters()) for one in models]
    start = None if base is None else dict(base.model.named_parameters())
    with torch.no_grad():
        for name, p in made.named_parameters():
            tensors = [one[name].detach().clone() for one in inputs]
            p.copy_(method(None if start is None else start[name].detach(), tensors, draws(seed, name)))
    return Policy(made, models[0].tokenizer, name="merged")
