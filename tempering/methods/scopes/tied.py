"""Blocks of a stage share their weights while they train: an auxiliary model for learngenes.

    block_i = block_(first of i's stage), the gradient of a shared weight is the sum over the blocks that have it

Xia et al. 2024 (arXiv 2404.16897, S128, SWS): a model whose blocks share weights stage by stage is distilled from a large one; what is stored is one
block a stage, out of which models of any depth begin (`temper reshape learngene`). Each stage begins as its first block. What is saved are plain
weights, equal within a stage.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tempering.config import Value
from tempering.errors import UserError
from tempering.methods.scopes.full import FullHandle

if TYPE_CHECKING:
    import torch

CATALOGUE = ("S128",)
_BLOCK = re.compile(r"^(.*\.(?:layers|h|blocks)\.)(\d+)(\..+)$")


class Tied(Value):
    """Train all weights, with those of a stage's blocks shared."""

    kind: Literal["tied"] = "tied"
    stages: tuple[int, ...] = Field(default=(), max_length=256)
    """How many blocks each stage has, from the first block on, for example (2, 2, 1); needed."""

    def attach(self, model: torch.nn.Module) -> TiedHandle:
        """Put the weights of each stage's first block in the place of the others'.

        Raises:
            UserError: the stages are not as many blocks as the model has, or the weights are quantised.
        """
        if not all(p.is_floating_point() for p in model.parameters()):
            raise UserError("scope tied cannot train quantised weights; load the model without quantise")
        found = {name: match for name, _ in model.named_parameters() if (match := _BLOCK.match(name))}
        blocks = len({match[2] for match in found.values()})
        if min(self.stages, default=0) < 1 or sum(self.stages) != blocks:
            given = ",".join(map(str, self.stages)) or "none"
            raise UserError(f"scope tied: stages of {given} blocks; give sizes that add up to the model's {blocks}, as --scope.stages '[2, 2, 1]'")
        first = [sum(self.stages[:i]) for i, size in enumerate(self.stages) for _ in range(size)]
        places = []
        for name, match in found.items():
            if first[int(match[2])] != int(match[2]):
                module, leaf = _place(model, name)
                owner, _ = _place(model, f"{match[1]}{first[int(match[2])]}{match[3]}")
                setattr(module, leaf, getattr(owner, leaf))
                places.append((module, leaf))
        for p in model.parameters():
            p.requires_grad_(True)
        return TiedHandle(model, places)


def _place(model: torch.nn.Module, name: str) -> tuple[torch.nn.Module, str]:
    module, _, leaf = name.rpartition(".")
    return model.get_submodule(module), leaf


class TiedHandle(FullHandle):
    """Shared weights in place; `bake()` gives each block its own copy."""

    def __init__(self, model: torch.nn.Module, places: list[tuple[torch.nn.Module, str]]) -> None:
        super().__init__(model, dict(sorted(model.named_parameters())))
        self.places = places

    def bake(self) -> torch.nn.Module:
        import torch

        for module, leaf in self.places:
            setattr(module, leaf, torch.nn.Parameter(getattr(module, leaf).detach().clone()))
        self.places = []
        return self.model
