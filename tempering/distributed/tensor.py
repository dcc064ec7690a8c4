"""Tensor parallelism: each matrix of a block in N pieces on N processes side by side, by the plan that a transformers config brings along.

torch's own styles (torch.distributed.tensor.parallel) cut the weights and convert what goes in and comes out: a colwise layer takes whole states and
gives its share of the features (so an attention layer sees its own heads only), a rowwise one takes that share and gives whole states, summed over
the processes side by side. Norms, embeddings and the output layer are computed in whole on each.

An adapter is cut as the layer it sits on: of a colwise layer, B; of a rowwise one, A. The other factor is small and stays whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, SequenceParallel, parallelize_module

from tempering.errors import UserError

_LESS = "run it with fewer processes side by side (--tensor-parallel)"


def cut(model: nn.Module, mesh: DeviceMesh, check: bool = True) -> None:
    """Cut a model's matrices over a one-dimensional mesh, in place; every process holds the same whole model before.

    No plan is trusted: what the model gives for a few tokens, and the gradients of its vectors, are compared before and after.

    Args:
        model: a transformers causal language model, plain or wrapped by PEFT.
        check: whether to compare; not for a model without weights, in whose stead a smaller one was checked.

    Raises:
        UserError: the family brings no plan, or one that is not known here or gives something else; heads or widths that N does not divide; an
            adapter other than LoRA.
    """
    inner: Any = model.get_base_model() if hasattr(model, "peft_config") else model  # type: ignore[operator]
    who = f"tensor parallelism: {type(inner).__name__}"
    plan: Mapping[str, str] = getattr(inner, "_tp_plan", None) or {}
    config = inner.config.get_text_config() if hasattr(inner, "config") else None
    ends = {id(m) for get in ("get_input_embeddings", "get_output_embeddings") if hasattr(inner, get) and (m := getattr(inner, get)()) is not None}
    planned = [(name, module, kind) for name, module in inner.named_modules() if id(module) not in ends and (kind := _kind(plan, name))]
    if config is None or not any(kind.startswith("rowwise") for _, _, kind in planned):
        raise UserError(f"{who} brings no plan of how to cut it (base_model_tp_plan in its config); run it without --tensor-parallel")
    size = mesh.size()
    local = any(kind == "colwise" for _, _, kind in planned)
    for what in ("num_attention_heads", "num_key_value_heads"):
        if local and (heads := getattr(config, what, None)) is not None and heads % size:
            raise UserError(f"{who} has {heads} {what.removeprefix('num_').replace('_', ' ')}, which {size} does not divide; {_LESS}")
    # All is looked at before anything is cut.
    steps = [found for name, module, kind in planned for found in _styles(who, name, module, kind, config, size)]
    before = _probe(model, config) if check else []
    for layer, style in steps:
        parallelize_module(layer, mesh, style, src_data_rank=None)
    try:
        after = _probe(model, config) if check else []
        same = all(_close(a, b) for a, b in zip(after, before, strict=True))
    # Shapes that do not fit together, or an operation that pieces do not know.
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError, IndexError):
        same = False
    if not same:
        raise UserError(f"{who} does not give the same when it is cut by its own plan; run it without --tensor-parallel")


def _probe(model: nn.Module, config: Any) -> list[Tensor]:
    """Logits of a few tokens, and the gradient that every vector (norms, biases) has from them, by name."""
    vectors = {name: p for name, p in sorted(model.named_parameters()) if p.ndim == 1 and p.is_floating_point()}
    frozen, training = [p for p in vectors.values() if not p.requires_grad], [m for m in model.modules() if m.training]
    device = next(model.parameters()).device
    ids = (7 * torch.arange(1, 7, device=device) % config.vocab_size)[None]
    model.eval()
    try:
        for p in frozen:
            p.requires_grad_(True)
        with torch.enable_grad(), torch.autocast(device.type, enabled=False):
            logits = model(input_ids=ids, position_ids=torch.arange(6, device=device)[None], use_cache=False).logits
            # Every logit counts differently, so that nothing cancels.
            turn = torch.cos(torch.arange(logits.numel(), device=device, dtype=torch.float32)).view(logits.shape)
            grads = torch.autograd.grad((logits.float() * turn).sum(), list(vectors.values()), allow_unused=True) if vectors else ()
    finally:
        for p in frozen:
            p.requires_grad_(False)
        for m in training:
            m.training = True
    return [logits.detach(), *(g.full_tensor() if isinstance(g, DTensor) else g for g in grads if g is not None)]


def _close(a: Tensor, b: Tensor) -> bool:
    tolerance = 1e-3 if b.dtype in (torch.float32, torch.float64) else 5e-2
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-6))


def _kind(plan: Mapping[str, str], name: str) -> str:
    return plan.get(re.sub(r"\.\d+(?=\.|$)", ".*", name)) or plan.get(name) or ""


def _styles(who: str, name: str, module: nn.Module, kind: str, config: Any, size: int) -> list[tuple[nn.Module, ParallelStyle]]:
    styles = {
        "colwise": ColwiseParallel,
        "colwise_gather_output": lambda: ColwiseParallel(output_layouts=Replicate()),
        "rowwise": RowwiseParallel,
        "rowwise_split_input": lambda: RowwiseParallel(input_layouts=Replicate()),
    }
    if kind == "replicated_with_grad_allreduce":
        # A norm inside of each head [1, T, heads, D]: its weight is whole, its gradient the sum over all heads.
        weight: Any = getattr(module, "weight", None)
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        if weight is None or tuple(weight.shape) != (head,):
            raise UserError(f"{who}: {name} is no norm inside of a head, which is what {kind!r} is taken for here; run it without --tensor-parallel")
        return [(module, SequenceParallel(sequence_dim=2, use_local_output=True))]
    if kind not in styles:
        raise UserError(f"{who} wants {name} cut as {kind!r}, which is not there yet; run it without --tensor-parallel")
    base: Any = getattr(module, "base_layer", module)
    adapters = [*getattr(module, "lora_A", nn.ModuleDict()).values()], [*getattr(module, "lora_B", nn.ModuleDict()).values()]
    odd = type(base) is not nn.Linear or (base is not module and (not adapters[0] or _varies(module)))
    if odd:
        raise UserError(
            f"{who}: {name} is {'quantised or no plain linear layer' if type(base) is not nn.Linear else 'under an adapter that is not plain LoRA'} "
            "and cannot be cut; run it without --tensor-parallel"
        )
    width = base.out_features if kind.startswith("colwise") else base.in_features
    if width % size:
        raise UserError(f"{who}: the width of {name} is {width}, which {size} does not divide; {_LESS}")
    return [(layer, styles[kind]()) for layer in (base, *adapters[kind.startswith("colwise")])]


def _varies(module: Any) -> bool:
    """Whether an adapter does more than add B A x: DoRA and its like look at whole matrices."""
    return bool(getattr(module, "lora_variant", None)) or bool(len(getattr(module, "lora_embedding_A", ())))
