"""Linear layers that stand in for quantised ones while a run is traced: the same bytes kept, expanded and saved, and no library behind them.

bitsandbytes' own layers look into their weights. What they keep is written down here from their formats (`models/quantise.py`), and a test compares
it with the real ones.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tempering.models.half import halve
from tempering.models.quantise import BLOCK

SCALES = 256
"""Scales that share a scale of their own in nf4, and the size of the table that they are looked up in."""


class Quantised(nn.Linear):
    """A linear layer with packed weights, and scales as buffers.

    Args:
        layer: what it replaces.
        kind: nf4 or int8.
    """

    def __init__(self, layer: nn.Linear, kind: str) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias, self.kind = layer.in_features, layer.out_features, layer.bias, kind
        size = layer.in_features * layer.out_features
        if kind == "nf4":
            blocks = -(-size // BLOCK)
            packed, scales = torch.empty(size // 2, 1, dtype=torch.uint8), torch.empty(blocks, dtype=torch.uint8)
            # The scales' own scales, their table, the 16 levels, the scales' mean.
            self.register_buffer("rest", torch.empty(-(-blocks // SCALES) + SCALES + 16 + 1))
        else:
            packed, scales = torch.empty(layer.out_features, layer.in_features, dtype=torch.int8), torch.empty(layer.out_features)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.register_buffer("scales", scales)

    def forward(self, input: Tensor) -> Tensor:
        """input [..., in_features] -> [..., out_features]."""
        out = _Expanded.apply(input, self.weight, (self.out_features, self.in_features), self.kind == "int8")
        return out if self.bias is None else out + self.bias


class Quantised4(Quantised):
    """One in 4 bits, which an adapter's layer expands itself (`models/lighter.py`)."""

    def expanded(self, dtype: torch.dtype) -> Tensor:
        """The weight [out, in]."""
        return self.weight.new_empty((self.out_features, self.in_features), dtype=dtype)


class _Expanded(torch.autograd.Function):
    """A product with weights that exist for the moment only; 8-bit layers keep their input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, shape: tuple[int, int], keeps: bool) -> Tensor:
        ctx.shape, ctx.packed, ctx.x = shape, packed, x if keeps else None
        # Like the weight, which holds nothing, and not like the input, which may be real numbers that something is tried on.
        return F.linear(x, packed.new_empty(shape, dtype=x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] @ ctx.packed.new_empty(ctx.shape, dtype=grads[0].dtype), None, None, None


def stand_in(model: Any, kind: str) -> None:
    """Replace every linear layer but the output layer, in place, as transformers does when it loads a model quantised."""
    if kind == "bf16":
        # Which needs no stand-in.
        return halve(model, torch.float32)
    output = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child is not output:
                setattr(parent, name, (Quantised4 if kind == "nf4" else Quantised)(child, kind))


def parameters(model: nn.Module) -> int:
    """Parameters of a model, a packed weight counted as what it stands for."""
    packed = sum(m.in_features * m.out_features - m.weight.numel() for m in model.modules() if isinstance(m, Quantised))
    return packed + sum(p.numel() for p in model.parameters())
