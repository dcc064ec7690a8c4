"""A model whose weights are averages of its own and another's, by shares that train."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tempering.errors import UserError

BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
NAME = "averaged"


class Shares(nn.Module):
    """m [K], all that trains, and the share of the other model that follows from it for each group of blocks."""

    def __init__(self, groups: int, mean: float, eps: float) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.zeros(groups))
        self.mean, self.eps, self.on = mean, eps, True

    def forward(self, group: int | None) -> Tensor | float:
        """The share of a group, or of what is in none; 0 while this is off."""
        if not self.on or group is None:
            return self.mean * self.on
        raised = torch.sigmoid(self.m) + self.eps
        return self.mean * len(raised) * raised[group] / raised.sum()


class Average(nn.Module):
    """a * there + (1 - a) * here: in this form a = 0 and a = 1 give one of the two to the bit."""

    def __init__(self, there: Tensor, shares: Shares, group: int | None) -> None:
        super().__init__()
        self.register_buffer("there", there.detach(), persistent=False)
        # In a tuple, so that it is not registered once for every weight.
        self.shares, self.group = (shares,), group

    def forward(self, here: Tensor) -> Tensor:
        a = self.shares[0](self.group)
        return a * self.there + (1 - a) * here


class AveragedHandle:
    """`off()` is the tuned model as it was, all shares 0; `bake()` puts the averages in its place."""

    def __init__(self, model: nn.Module, base: nn.Module, shares: Shares, name: str) -> None:
        theirs, ours = dict(base.named_parameters()), dict(model.named_parameters())
        block = {key: int(found[1]) for key in ours if (found := BLOCK.search(key))}
        blocks = len(set(block.values()))
        if blocks < (groups := len(shares.m)):
            raise UserError(f"scope averaged: the model has {blocks} numbered blocks, fewer than the {groups} groups; lower --scope.groups")
        for key, weight in ours.items():
            if key not in theirs or theirs[key].shape != weight.shape or not weight.is_floating_point():
                raise UserError(f"scope averaged: {name} has no weight {key} of the same shape; both must be unquantised models of the same sizes")
        self.model = model.requires_grad_(False)
        self.shares = shares.to(next(iter(ours.values())).device)
        # A table that is input and output at once is one tensor in two places, and both must see the average.
        key_of = {weight: key for key, weight in ours.items()}
        self.places = [(module, leaf, weight) for module in list(model.modules()) for leaf, weight in list(module.named_parameters(recurse=False))]
        for module, leaf, weight in self.places:
            key = key_of[weight]
            group = block[key] * groups // blocks if key in block else None
            average = Average(theirs[key].to(weight.device, weight.dtype), self.shares, group)
            parametrize.register_parametrization(module, leaf, average, unsafe=True)
        model.add_module(NAME, self.shares)
        self.params = {f"{NAME}.m": self.shares.m}

    def keep_reference(self) -> None:
        """Nothing to keep: both models stay as they are."""

    @contextmanager
    def off(self) -> Iterator[nn.Module]:
        self.shares.on = False
        try:
            yield self.model
        finally:
            self.shares.on = True

    def bake(self) -> nn.Module:
        with torch.no_grad():
            averages = [getattr(module, leaf) for module, leaf, _ in self.places]
            for (module, leaf, weight), average in zip(self.places, averages, strict=True):
                parametrize.remove_parametrizations(module, leaf, leave_parametrized=False)
                weight.copy_(average)
        self.places = []
        if hasattr(self.model, NAME):
            delattr(self.model, NAME)
        return self.model
