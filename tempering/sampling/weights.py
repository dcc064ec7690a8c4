"""A copy of a model's weights for decoding: in another precision, its blocks fused, and laid out as the processor's matrix product wants them.

Decoding multiplies a few rows by every weight at every step. Under autocast each step would first cast the float32 weights, and a plain linear layer
lets oneDNN rearrange its weights at each call. The copy does both once. With 64 rows on an AVX-512 core the linear layers of a 135M model take 214 to
160 ms in float32, 79 to 100 packed; in bfloat16 45 and 39; with a single row, where reading weights is all there is, 17 and 10.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn

from tempering.sampling.fused import fuse

_PACKS = "_tempering_packed"
_ROWS = 64
"""Rows a packed weight is laid out for; it serves any number."""


class PackedLinear(nn.Module):
    """A linear layer without gradient whose weight is in oneDNN's own layout."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed: Any = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


@functools.cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of PyTorch packs weights of this precision on the processor, and multiplies rightly by them."""
    if not torch.backends.mkldnn.is_available() or dtype not in (torch.float32, torch.bfloat16):
        return False
    with torch.no_grad():
        linear = nn.Linear(64, 32).to(dtype)
        x = torch.linspace(-1, 1, 3 * 64).reshape(3, 64).to(dtype)
        try:
            return torch.allclose(PackedLinear(linear)(x), linear(x), atol=1e-2 if dtype == torch.bfloat16 else 1e-5)
        # The operators are not part of PyTorch's promise: another build may lack them or want other arguments.
        except (RuntimeError, AttributeError, TypeError, NotImplementedError):
            return False


def decoding_copy(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model in `dtype`, for decoding only. Tied weights stay tied; buffers (rotary frequencies) keep their precision.

    Fusing and packing are tried once for each model and precision: where a module wants more of its linear layers than the product (an adapter), the
    copy stays plain.
    """
    verdicts = model.__dict__.setdefault(_PACKS, {})
    made = _copy(model, dtype)
    if not verdicts.get(dtype, True):
        return made
    before = _some_logits(made) if dtype not in verdicts else None
    try:
        fuse(made)
        if next(model.parameters()).device.type == "cpu" and can_pack(dtype):
            _pack(made)
        if before is not None:
            verdicts[dtype] = bool((_some_logits(made) - before).abs().median() <= (0.1 if dtype.itemsize < 4 else 1e-4) * before.std())
    except (RuntimeError, AttributeError, TypeError, ValueError, KeyError):
        verdicts[dtype] = False
    return made if verdicts[dtype] else _copy(model, dtype)


def _pack(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, PackedLinear(child))


def _copy(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    # deepcopy takes from the memo what it would copy: no weight exists twice in the old precision
    cast = {id(p): nn.Parameter(p.detach().to(dtype), requires_grad=False) for p in model.parameters() if p.is_floating_point()}
    return copy.deepcopy(model, dict[int, Any](cast)).eval()


def _some_logits(model: nn.Module) -> Tensor:
    ids = torch.arange(5, 13, device=next(model.parameters()).device)[None]
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits.float()
