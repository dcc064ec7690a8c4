"""Linear layers whose frozen weights lie in bfloat16 (`--quantise bf16`, see quantise.py), and any frozen layer's weight as it is multiplied."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tempering.precision import multiplied_in


class Half(nn.Linear):
    """A frozen linear layer whose weight lies in bfloat16 and is multiplied in whatever type its input has.

    The parameter holds the bits, as whole numbers: like any packed weight it is none that could be trained, averaged or saved by mistake. Only while
    several processes hold a piece each (`distributed/shard.py`) does it hold the numbers.
    """

    def numbers(self) -> Tensor:
        """The weight [out, in], bfloat16."""
        return self.weight if self.weight.is_floating_point() else self.weight.view(torch.bfloat16)

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        return F.linear(input, self.numbers().to(multiplied_in(input)), self.bias)

    def plain(self, dtype: torch.dtype) -> nn.Linear:
        """An ordinary layer with the same weight."""
        layer = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        layer.weight = nn.Parameter(self.numbers().to(dtype), requires_grad=False)
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias.detach().to(dtype), requires_grad=False)
        return layer


def expands(layer: nn.Module) -> bool:
    """Whether `expanded` knows this linear layer: a plain one, one in bfloat16, one in 4 bits, or what stands in for that in a plan. Layers of 8
    bits round their inputs too."""
    return type(layer) in (nn.Linear, Half) or type(layer).__name__ == "Linear4bit" or hasattr(layer, "expanded")


def expanded(layer: Any, dtype: torch.dtype) -> Tensor:
    """The weight [out, in] of a frozen linear layer as it is multiplied, for the moment that it is used."""
    if type(layer) is Half:
        return layer.numbers().to(dtype)
    if type(layer).__name__ == "Linear4bit":
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(dtype)
    return layer.weight.to(dtype) if type(layer) is nn.Linear else layer.expanded(dtype)


def halve(model: Any, dtype: torch.dtype) -> None:
    """Keep the linear layers but the output layer in bfloat16, in place, and all else in `dtype`."""
    output = model.get_output_embeddings()
    for module in model.modules():
        if type(module) is nn.Linear and module is not output:
            module.__class__ = Half
            module.weight = nn.Parameter(module.weight.detach().to(torch.bfloat16, copy=True).view(torch.int16), requires_grad=False)
    for p in model.parameters():
        if p.is_floating_point():
            p.data = p.data.to(dtype)
