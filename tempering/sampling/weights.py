"""A copy of a model's weights for decoding: in another precision, its blocks fused, and laid out as the processor's matrix product wants them.

Decoding multiplies a few rows by every weight at every step. Under autocast each step would first cast the float32 weights, and a plain linear layer
lets oneDNN rearrange its weights at each call. The copy does both once; adapters are folded into the weights they belong to. With 64 rows on an
AVX-512 core the linear layers of a 135M model take 214 to 160 ms in float32, 79 to 100 packed; in bfloat16 45 and 39; with a single row, where all
there is to do is to read the weights, 17 and 10.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tempering.models.half import Half
from tempering.sampling.chain import models_of
from tempering.sampling.fused import fuse
from tempering.sampling.passes import carry, fits_slots
from tempering.types import Policy

_TRIED = "_tempering_tried"
_ROWS = 64
"""Rows a packed weight is laid out for; it serves any number."""
_COLUMNS = 6144
"""Outputs of one product: an output layer of 49,152 at once takes 17.6 ms, in pieces 9.3 (64 rows, bfloat16, one core)."""


class PackedLinear(nn.Module):
    """A linear layer without gradient whose weight is in oneDNN's own layout."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weights = linear.weight.detach().split(_COLUMNS)
        biases = [None] * len(weights) if linear.bias is None else linear.bias.detach().split(_COLUMNS)
        self.pieces = [(torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS), bias) for weight, bias in zip(weights, biases, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        made = [torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "") for packed, bias in self.pieces]
        return made[0] if len(made) == 1 else torch.cat(made, -1)


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


def for_decoding(policy: Policy, dtype: torch.dtype) -> Policy:
    """The policy with nothing but decoding copies of its models: for who samples only, and lets go of the policy given, whose weights take as much
    memory again."""
    made = {role: decoding_copy(model, dtype) for role, model in models_of(policy).items()}
    return replace(policy, model=made.pop("policy"), roles=made, handle=None)


def decoding_copy(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model in `dtype`, for decoding only. Tied weights stay tied; buffers (rotary frequencies) keep their precision.

    Folding, fusing and packing are tried once for each model and precision: where a module wants more of its linear layers than the product, the
    copy stays plain.
    """
    # asked of the original, where it is sharper than in a copy of less precision
    fits_slots(model)
    tried: dict[Any, bool] = model.__dict__.setdefault(_TRIED, {})
    adapters, made = _adapters(model), None
    # a model whose adapters are off for now is another one
    way = dtype, len(adapters)
    if tried.get(way, True):
        before = _some_logits(_copy(model, dtype)) if way not in tried else None
        pack = next(model.parameters()).device.type == "cpu" and can_pack(dtype)
        try:
            made = _copy(model, dtype, adapters)
            # a block at a time: its weights then never stand beside those of all others in another layout
            fuse(made, tried, _pack if pack else lambda block: None)
            if pack:
                _pack(made)
            if before is not None:
                tried[way] = bool((_some_logits(made) - before).abs().median() <= (0.1 if dtype.itemsize < 4 else 1e-4) * before.std())
        except (RuntimeError, AttributeError, TypeError, ValueError, KeyError, NotImplementedError):
            tried[way] = False
    if made is None or not tried[way]:
        made = _copy(model, dtype)
    carry(model, made)
    return made


def _pack(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, PackedLinear(child))


def _copy(model: Any, dtype: torch.dtype, adapters: Sequence[Any] = ()) -> nn.Module:
    """A copy in another precision; with these LoRA layers folded into plain linear ones, and PEFT's wrapping gone."""
    # deepcopy takes from the memo what it would copy: no weight exists twice in the old precision
    memo: dict[int, Any] = {id(layer): _folded(layer).to(dtype) for layer in adapters}
    folded = {id(p) for layer in adapters for p in layer.parameters()}
    whole = model.get_base_model() if adapters else model
    memo |= {id(layer): layer.plain(dtype) for layer in whole.modules() if isinstance(layer, Half) and id(layer.weight) not in folded}
    for p in whole.parameters():
        if p.is_floating_point() and id(p) not in folded:
            memo[id(p)] = nn.Parameter(p.detach().to(dtype), requires_grad=False)
    return copy.deepcopy(whole, memo).eval()


def _adapters(model: Any) -> list[Any]:
    """The LoRA layers of a PEFT model; none where anything else than linear layers is adapted, or a layer goes without its adapter now."""
    peft: Any = sys.modules.get("peft")
    if peft is None or not isinstance(model, peft.PeftModel):
        return []
    layers = [m for m in model.modules() if isinstance(m, peft.tuners.tuners_utils.BaseTunerLayer)]
    saved = any(isinstance(m, peft.utils.other.AuxiliaryTrainingWrapper) for m in model.modules())
    plain = all(type(m) is peft.tuners.lora.Linear and type(m.get_base_layer()) in (nn.Linear, Half) for m in layers)
    return layers if plain and not saved and not any(m.merged or m.disable_adapters for m in layers) else []


def _folded(layer: Any) -> nn.Module:
    with torch.no_grad():
        base = layer.base_layer
        # The sum is rounded once, to what is decoded in.
        alone = copy.deepcopy(layer, {id(base): base.plain(torch.float32)} if isinstance(base, Half) else {})
        alone.merge()
        return alone.get_base_layer().requires_grad_(False)


def _some_logits(model: nn.Module) -> Tensor:
    ids = torch.arange(5, 13, device=next(model.parameters()).device)[None]
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits.float()
