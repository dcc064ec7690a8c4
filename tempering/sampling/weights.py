"""A copy of a model's weights for decoding: in another precision, and laid out as the processor's matrix product wants them.

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

from tempering.sampling.chain import evaluating

_VERDICT = "_tempering_decoding_copy"
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
    """The model in `dtype` for decoding only; the model itself where no copy gives its logits. Tied weights stay tied; buffers keep their precision.

    The first copy of a model is compared with it on a few tokens; later ones are made in the way that was right then.
    """
    kinds = model.__dict__.setdefault(_VERDICT, {})
    for packed in (True, False) if dtype not in kinds else (kinds[dtype],):
        if packed is None or (packed and not (can_pack(dtype) and next(model.parameters()).device.type == "cpu")):
            continue
        made = _copy(model, dtype, packed)
        if dtype in kinds or _agree(model, made):
            kinds[dtype] = packed
            return made
    kinds[dtype] = None
    return model


def _copy(model: nn.Module, dtype: torch.dtype, packed: bool) -> nn.Module:
    # deepcopy takes from the memo what it would copy: the weights exist once in each precision, never twice in the old one
    cast = {id(p): nn.Parameter(p.detach().to(dtype), requires_grad=False) for p in model.parameters() if p.is_floating_point()}
    made = copy.deepcopy(model, dict[int, Any](cast)).eval()
    del cast
    if packed:
        for module in list(made.modules()):
            for name, child in list(module.named_children()):
                if type(child) is nn.Linear:
                    setattr(module, name, PackedLinear(child))
    return made


def _agree(model: nn.Module, made: nn.Module) -> bool:
    ids = torch.arange(5, 13, device=next(model.parameters()).device)[None]
    with evaluating(model):
        try:
            want, have = (m(input_ids=ids, use_cache=False).logits.float() for m in (model, made))
        except (RuntimeError, AttributeError, TypeError, ValueError):
            return False
    # a wrong copy is off by the logits' own size; bfloat16 by a few hundredths of it
    return bool((want - have).abs().max() <= 0.1 * want.abs().max().clamp(min=1.0))
