"""A codebook after the MLP of a block: every vector that the MLP gives is replaced by the sum of the few codes nearest to it.

It is no weight of a transformers architecture, so it lies in a file of its own beside the plain weights, and `models.load` puts it back; other tools
see the model without it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tempering.errors import UserError

FILE = "codebook.safetensors"
_PLACE = re.compile(r"\.(\d+)\.mlp\.codebook\.(codes|alive_K)$")


class Codebook(nn.Module):
    """Codes [K, H], of which `top` are chosen and added up for every vector.

    Args:
        codes_KH: where they begin.
        top: at most as many as there are.
    """

    alive_K: Tensor

    def __init__(self, codes_KH: Tensor, top: int) -> None:
        super().__init__()
        self.codes = nn.Parameter(codes_KH.clone())
        self.top = top
        self.register_buffer("alive_K", torch.ones(len(codes_KH), dtype=torch.bool, device=codes_KH.device))

    def chosen(self, y: Tensor) -> Tensor:
        """[..., H] -> the codes with the largest cosines, the nearest first, [..., top]."""
        cosine = F.normalize(y.to(self.codes), dim=-1) @ F.normalize(self.codes.detach(), dim=-1).T
        return cosine.masked_fill(~self.alive_K, -torch.inf).topk(self.top, -1).indices

    def forward(self, y: Tensor) -> Tensor:
        return self.codes[self.chosen(y)].sum(-2).to(y)

    def take_out(self, codes: Sequence[int]) -> None:
        """Never choose these again.

        Raises:
            UserError: fewer would be left than are chosen.
        """
        alive_K = self.alive_K.clone()
        alive_K[list(codes)] = False
        if int(alive_K.sum()) < self.top:
            raise UserError(f"of {len(alive_K)} codes {int(alive_K.sum())} would be left, and {self.top} are chosen for every token; take out fewer")
        self.alive_K.copy_(alive_K)


def _through(module: Any, inputs: Any, output: Tensor) -> Tensor:
    return module.codebook(output)


def mlp_of(model: Any, layer: int) -> Any:
    """The MLP of a block.

    Raises:
        UserError: the model has no such block.
    """
    ending = f"layers.{layer}.mlp"
    found = next((module for name, module in model.named_modules() if name == ending or name.endswith(f".{ending}")), None)
    if found is None:
        raise UserError(f"layer {layer}: the model has no module …{ending}; blocks count from 0, and must have an mlp")
    return found


def install(model: Any, layer: int, codebook: Codebook) -> None:
    """Let what the MLP of a block gives pass through a codebook, in place; its own weights keep their names."""
    mlp = mlp_of(model, layer)
    mlp.codebook = codebook.to(next(mlp.parameters()).device)
    # The hook reads the module that it is called with, so a copy of the model has a codebook of its own.
    mlp.register_forward_hook(_through)


def of(model: Any, layer: int) -> Codebook:
    """The codebook after the MLP of a block."""
    return mlp_of(model, layer).codebook


def tables(model: Any) -> dict[str, Tensor]:
    """The entries of a model's state that belong to its codebooks; {} where it has none."""
    return {name: value for name, value in model.state_dict().items() if _PLACE.search(name)}


def write(model: Any, folder: Path) -> None:
    """The codebooks of a model, beside its weights."""
    from safetensors.torch import save_file

    top = next(module.top for module in model.modules() if isinstance(module, Codebook))
    save_file({name: value.contiguous() for name, value in tables(model).items()}, folder / FILE, metadata={"top": str(top)})


def restored(model: Any, path: Path) -> None:
    """Put the codebooks of a file back into a model, in place.

    Raises:
        UserError: the file is damaged, or of another model.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            top = int(file.metadata()["top"])
            held: Mapping[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 # A file is no mapping.
        for name, codes_KH in held.items():
            place = _PLACE.search(name)
            if place is not None and place[2] == "codes":
                book = Codebook(codes_KH, top)
                book.alive_K.copy_(held[name.removesuffix("codes") + "alive_K"])
                install(model, int(place[1]), book)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: the codebook cannot be read ({error}); save the model again") from None
