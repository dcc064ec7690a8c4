"""Common modules of language models with the same values and gradients for less memory traffic: root-mean-square norms, gated MLPs, LoRA layers.

Written in separate operations, a norm keeps three float32 copies of its input for the backward pass, and PEFT's LoRA layer passes over its output
four times. Here each is one autograd function that keeps only what it cannot recompute for next to nothing. `lighter(model)` switches them on for the
duration of a step; the modules, their parameters and names stay, so whatever else looks at the model sees no difference. Outputs of norms and gates,
which the layers behind them would keep, are made again (again.py).

A module is taken only if it is the kind of thing it looks like, found out by comparing its output and gradients with the original's, once per class.
On a GPU these are not used: there the memory passes are cheap and the kernels many (FSDP, compile and Liger bring their own).

Shapes: T tokens in any number of leading dimensions, D width, F inner width, r rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tempering.fused import accumulates
from tempering.models.again import again, made_by
from tempering.models.half import expanded, expands
from tempering.precision import multiplied_in


@contextmanager
def lighter(*models: nn.Module) -> Iterator[None]:
    """Inside, modules that can be replaced are computed by the functions below; it must span the backward pass where activations are recomputed."""
    switched = []
    for model in models:
        for module, forward in _found(model):
            if "forward" not in module.__dict__:
                module.__dict__["forward"] = MethodType(forward, module)
                switched.append(module)
    try:
        # Where nothing is replaced (on a GPU), nobody watches what autograd keeps.
        with again() if switched else nullcontext():
            yield
    finally:
        for module in switched:
            del module.__dict__["forward"]


def _found(model: nn.Module) -> list[tuple[nn.Module, Callable[..., Tensor]]]:
    # Listed at each use: scopes add and remove modules.
    found: list[tuple[nn.Module, Callable[..., Tensor]]] = []
    for module in model.modules():
        forward = _VERDICTS[type(module)] if type(module) in _VERDICTS else _judge(module)
        if forward is not None:
            found.append((module, forward))
    return found


_VERDICTS: dict[type, Callable[..., Tensor] | None] = {}


@contextmanager
def judging_apart() -> Iterator[None]:
    """Inside, verdicts are not kept: for models whose tensors hold nothing, where every comparison passes."""
    before = dict(_VERDICTS)
    try:
        yield
    finally:
        _VERDICTS.clear()
        _VERDICTS.update(before)


def _judge(module: nn.Module) -> Callable[..., Tensor] | None:
    kind, verdict = type(module), None
    # Not the first one: packed weights of a base are whole numbers.
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    if weight is None or weight.device.type != "cpu" or weight.dtype != torch.float32:
        return None
    if kind.__name__.endswith("RMSNorm") and list(dict(module.named_parameters())) == ["weight"] and weight.ndim == 1:
        verdict = next((f for f in (_norm, _norm_from_one) if _same(module, f, weight.shape[0])), None)
    elif kind is nn.Embedding:
        plain = module.max_norm is None and not module.scale_grad_by_freq and not module.sparse
        verdict = _embedding if plain else None
        if not plain:
            return None  # The next one may be.
    elif {"gate_proj", "up_proj", "down_proj", "act_fn"} <= module._modules.keys():
        # Another activation than silu shows in the comparison.
        verdict = _gated if _same(module, _gated, module.gate_proj.in_features) else None  # type: ignore[union-attr]
    elif kind.__module__ in ("peft.tuners.lora.layer", "peft.tuners.lora.bnb") and kind.__name__ in ("Linear", "Linear4bit"):
        verdict = _lora
    _VERDICTS[kind] = verdict
    return verdict


def _same(module: nn.Module, forward: Callable[..., Tensor], width: int) -> bool:
    """Outputs and gradients on a few numbers, in float32, to 1e-5. Without dropout, so that it draws nothing and both see the same."""
    generator = torch.Generator().manual_seed(0)
    x, g = (torch.randn(3, width, generator=generator) for _ in range(2))
    results = []
    training = [inner for inner in module.modules() if inner.training]
    module.eval()
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        for call in (module.forward, MethodType(forward, module)):
            leaf = x.clone().requires_grad_()
            try:
                out = call(leaf)
                results.append((out.detach(), *torch.autograd.grad((out * g).sum(), leaf)))
            except (RuntimeError, TypeError, AttributeError):
                break
    for inner in training:
        inner.training = True
    return len(results) == 2 and all(torch.allclose(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max())) for a, b in zip(*results, strict=True))


# ------------------------------------------------------------------------------------------------------------------------------------------ norms


def _plain(module: Any, *tensors: Tensor) -> bool:
    """Whether these are ordinary tensors: one that lies in pieces on several processes (tensor parallelism) goes the module's own way."""
    return not any(hasattr(t, "device_mesh") for t in (*tensors, *module.parameters(recurse=False)))


def _norm(self: Any, hidden_states: Tensor, start: float = 0.0) -> Tensor:
    if not _plain(self, hidden_states):
        return type(self).forward(self, hidden_states)
    x, weight, eps, dtype = hidden_states, self.weight, _eps(self), multiplied_in(hidden_states)
    out, scale = _Norm.apply(x, weight, eps, start, dtype)
    # Without the graph, which would keep itself alive.
    x, weight = x.detach(), weight.detach()
    return made_by(out, lambda: _normed(x, scale, weight, start, dtype))


def _norm_from_one(self: Any, hidden_states: Tensor) -> Tensor:
    return _norm(self, hidden_states, 1.0)


def _eps(module: Any) -> float:
    return module.variance_epsilon if "variance_epsilon" in module.__dict__ else module.eps


def _normed(x: Tensor, scale: Tensor, weight_D: Tensor, start: float, dtype: torch.dtype) -> Tensor:
    return (x.float() * scale).mul_(weight_D + start if start else weight_D).to(dtype)


class _Norm(torch.autograd.Function):
    """y = x / rms(x) * (weight + start), computed in float32, and 1 / rms(x). Keeps x and one number a token; y comes in the matmuls' dtype, as they
    want it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float, start: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight_D, scale)
        ctx.mark_non_differentiable(scale)
        ctx.start = start
        return _normed(x, scale, weight_D, start, dtype), scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight_D, scale = ctx.saved_tensors
        normed = x.float() * scale
        grad = grads[0].float()
        d_weight = (grad * normed).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        grad = grad * (weight_D + ctx.start if ctx.start else weight_D)
        normed.mul_((grad * normed).mean(-1, keepdim=True))
        return grad.sub_(normed).mul_(scale).to(x.dtype), d_weight, None, None, None


# ------------------------------------------------------------------------------------------------------------------------------------- embeddings


def _embedding(self: Any, input: Tensor) -> Tensor:
    trains = self.weight.requires_grad and torch.is_grad_enabled()
    if not (trains and _plain(self) and self.max_norm is None and not self.scale_grad_by_freq and not self.sparse):
        return type(self).forward(self, input)
    return _Embedding.apply(input, self.weight, -1 if self.padding_idx is None else self.padding_idx)


class _Embedding(torch.autograd.Function):
    """Rows of the weight, whose gradient is added to what is there where the loop allows it: no tensor of the vocabulary's size for a few tokens."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(ids)
        # Not saved, see fused.py.
        ctx.weight, ctx.padding = weight, padding
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (ids,), weight = ctx.saved_tensors, ctx.weight
        if weight.grad is None or not accumulates(weight):
            return None, torch.ops.aten.embedding_dense_backward(grads[0], ids, weight.shape[0], ctx.padding, False), None
        # Summed by word before it is added, which gives the bits of the dense gradient; of shapes that do not depend on the words.
        sorted_T, order_T = ids.flatten().sort(stable=True)
        group_T = (sorted_T.diff(prepend=sorted_T[:1]) != 0).cumsum(0)
        words = torch.zeros_like(sorted_T).scatter_(0, group_T, sorted_T)
        place = torch.empty_like(order_T).scatter_(0, order_T, group_T)
        sums = torch.ops.aten.embedding_dense_backward(grads[0].flatten(0, -2).to(weight.dtype), place, len(place), -1, False)
        if ctx.padding >= 0:
            sums = sums * (words != ctx.padding)[:, None]
        weight.grad.index_add_(0, words, sums)
        return None, None, None


# ------------------------------------------------------------------------------------------------------------------------------------- gated MLPs


def _gated(self: Any, x: Tensor) -> Tensor:
    gate, up = self.gate_proj(x), self.up_proj(x)
    # The two outlive their graph as the product's inputs only.
    halves = gate.detach(), up.detach()
    return self.down_proj(made_by(_Gate.apply(gate, up), lambda: F.silu(halves[0]).mul_(halves[1])))


class _Gate(torch.autograd.Function):
    """silu(gate) * up, keeping the two factors and not silu's output."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grads[0] * up, gate), F.silu(gate).mul_(grads[0])


# ------------------------------------------------------------------------------------------------------------------------------------ LoRA layers


def _lora(self: Any, x: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
    """PEFT's `lora.Linear` with one plain adapter switched on over a frozen layer; anything else goes PEFT's way."""
    names = self.active_adapters
    plain = len(names) == 1 and names[0] in self.lora_A and names[0] not in self.lora_variant and expands(self.base_layer)
    frozen = plain and _plain(self.base_layer) and not self.base_layer.weight.requires_grad and "forward" not in self.base_layer.__dict__
    if arguments or keywords or not frozen or self.disable_adapters or self.merged or not self.lora_A[names[0]].weight.requires_grad:
        return type(self).forward(self, x, *arguments, **keywords)
    name = names[0]
    dropout = self.lora_dropout[name]
    if self.lora_B[name].bias is not None or self.base_layer.bias is not None or (isinstance(dropout, nn.Dropout) and dropout.p and self.training):
        return type(self).forward(self, x)
    return _LoRA.apply(x, self.base_layer, self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name], multiplied_in(x))


class _LoRA(torch.autograd.Function):
    """y = x W' + s (x A') B' with W frozen. Keeps x and x A'; W in half precision, or expanded from fewer bits, is made again in the backward
    pass, not kept for all layers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: nn.Module, a: Tensor, b: Tensor, scaling: float, dtype: torch.dtype) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x_TD, a, b = x.flatten(0, -2).to(dtype), a.to(dtype), b.to(dtype)
            low_Tr = x_TD @ a.T
            out = torch.addmm(x_TD @ expanded(base, dtype).T, low_Tr, b.T, alpha=scaling)
        ctx.save_for_backward(x_TD, low_Tr, a, b)
        ctx.base, ctx.scaling, ctx.shape, ctx.dtype = base, scaling, x.shape, x.dtype
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x_TD, low_Tr, a, b = ctx.saved_tensors
        grad = grads[0].flatten(0, -2).to(x_TD.dtype)
        back_Tr = (grad @ b).mul_(ctx.scaling)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = torch.addmm(grad @ expanded(ctx.base, grad.dtype), back_Tr, a).view(ctx.shape).to(ctx.dtype)
        d_a = (back_Tr.T @ x_TD).float()
        d_b = (grad.T @ low_Tr).float().mul_(ctx.scaling)
        return d_x, None, d_a, d_b, None, None
