"""Attention over segments that lie end to end in one row, some of them sharing a prefix: no padding, no mask of the row, no work across segments.

A row is a forest of nodes. A node is a run of tokens that attends to itself, causally, and to the whole of its ancestors; a segment is a path from a
root to a node. Segments without a common prefix are roots of their own, and then this is block-diagonal attention; chosen and rejected answers to one
prompt, or samples of a group, are children of the prompt, which goes through the model once. That is exact: a token's state depends on the tokens
before it alone, whoever comes after.

transformers models call it by name (`AttentionInterface`), so their own modules, adapters and hooks stay as they are; without a `Plan` among the
keywords it is their scaled-dot-product attention. One autograd function spans all nodes of a layer: slicing per node under autograd would make a
gradient of the whole row for each slice. It keeps q, k, v, the output and a log-sum-exp, never the [T, T] probabilities.

On a CPU the forward kernel is torch's flash attention in float32 whatever the matmuls are, and the backward pass of half precision is ours, in blocks
(`_blocks_backward` says why). Elsewhere a node is computed by PyTorch's own `scaled_dot_product_attention`, which picks the kernel.

Shapes: H query heads, K key heads, T tokens of the row, S tokens of one node, P tokens of its ancestors, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tempering.forest import Plan
from tempering.precision import multiplied_in

NAME = "tempering_segments"
"""The attention implementation's name in a model's config."""
KEYWORD = "tempering_plan"
"""The keyword that carries the plan through a model's forward pass."""


@contextmanager
def segmented(*models: nn.Module) -> Iterator[None]:
    """Inside, these transformers models attend by segments wherever a plan is given; after it they attend as before.

    It must span the backward pass too where activations are recomputed.
    """
    found: list[Any] = [getattr(model, "config", None) for model in models]
    configs = [config for config in found if getattr(config, "_attn_implementation", None) == "sdpa"]
    for config in configs:
        config._attn_implementation = NAME
    try:
        yield
    finally:
        for config in configs:
            config._attn_implementation = "sdpa"


_PLANNED: ContextVar[bool] = ContextVar("tempering_planned", default=False)


@contextmanager
def planned() -> Iterator[None]:
    """Inside, models build no masks of their own: the plan says everything."""
    token = _PLANNED.set(True)
    try:
        yield
    finally:
        _PLANNED.reset(token)


SEEN: ContextVar[list[int | None] | None] = ContextVar("tempering_windows_seen", default=None)
"""Where a list is set, every call of a layer notes the window it was given: how a model is checked for windows it keeps to itself."""


def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **keywords: Any) -> tuple[Tensor, None]:
    """What transformers calls: query [1, H, T, D], key and value [1, K, T, D] -> [1, T, H, D].

    Raises:
        NotImplementedError: the layer wants something that is not plain attention (soft-capping, sinks, a bias); callers find out once, by trying.
    """
    plan = keywords.pop(KEYWORD, None)
    if plan is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, **keywords)
    odd = [name for name in ("softcap", "s_aux", "position_bias", "cache") if keywords.get(name) is not None]
    if odd or attention_mask is not None or query.shape[0] != 1 or keywords.get("is_causal") is False:
        raise NotImplementedError(f"attention by segments does not know {odd or 'masks of other kinds'}")
    window, scale, dropout = keywords.get("sliding_window"), keywords.get("scaling"), keywords.get("dropout") or 0.0
    seen = SEEN.get()
    if seen is not None:
        seen.append(window)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if query.device.type == "cpu" and not dropout and key.shape[-1] == value.shape[-1]:
        out = _Segments.apply(query, key, value, plan, scale, window, multiplied_in(query))
    else:
        out = _plain(query, key, value, plan, scale, window, dropout)
    return out.transpose(1, 2), None


def _plain(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, window: int | None, dropout: float) -> Tensor:
    """The same by PyTorch's own function and autograd, node by node: any device, and the twin that tests compare with."""
    pieces = []
    for node in plan.nodes:
        mask = plan.mask(node, window, q.device)
        how: dict[str, Any] = {"is_causal": True} if mask is None else {"attn_mask": mask.to(q.dtype)}
        own = q[:, :, node.start : node.end]
        pieces.append(F.scaled_dot_product_attention(own, node.keys(k), node.keys(v), dropout_p=dropout, scale=scale, enable_gqa=True, **how))
    return torch.cat(pieces, 2)


class _Segments(torch.autograd.Function):
    """Flash attention over every node, float32 inside; q, k, v, out in `dtype` (the matmuls') are all that is kept, plus [H, T] log-sum-exps."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, window: int | None, dtype: torch.dtype) -> Tensor:
        # Rotary embeddings leave q and k in float32 under autocast.
        ctx.dtypes = q.dtype, k.dtype, v.dtype
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        # [1, T, H, D] in memory, as the projection after it wants it: transposing back costs no copy.
        out = torch.empty(q.shape[0], q.shape[2], q.shape[1], v.shape[-1], dtype=q.dtype).transpose(1, 2)
        sums = []
        for node in plan.nodes:
            mask = plan.mask(node, window, q.device)
            own, keys, values = q[:, :, node.start : node.end].float(), node.keys(k).float(), node.keys(v).float()
            piece, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(own, keys, values, 0.0, mask is None, attn_mask=mask, scale=scale)
            out[:, :, node.start : node.end] = piece
            sums.append(lse)
        ctx.save_for_backward(q, k, v, out, *sums)
        ctx.plan, ctx.scale, ctx.window = plan, scale, window
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, out, *sums = ctx.saved_tensors
        (grad,) = grads
        dq = torch.empty_like(q)
        dk, dv = torch.zeros_like(k, dtype=torch.float32), torch.zeros_like(v, dtype=torch.float32)
        for node, lse in zip(ctx.plan.nodes, sums, strict=True):
            rows, keys, values = slice(node.start, node.end), node.keys(k), node.keys(v)
            windowed = ctx.window is not None and node.offset + node.end - node.start > ctx.window
            if q.dtype == torch.float32 or windowed or node.end - node.start < LEAST:
                mask = ctx.plan.mask(node, ctx.window, q.device)
                pieces = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                    grad[:, :, rows].float(), q[:, :, rows].float(), keys.float(), values.float(), out[:, :, rows].float(), lse,
                    0.0, mask is None, attn_mask=mask, scale=ctx.scale,
                )  # fmt: skip
            else:
                pieces = _blocks_backward(grad[:, :, rows], q[:, :, rows], keys, values, out[:, :, rows], lse, ctx.scale)
            dq[:, :, rows] = pieces[0]
            at = 0
            for a, b in (*node.before, (node.start, node.end)):
                dk[:, :, a:b] += pieces[1][:, :, at : at + b - a]
                dv[:, :, a:b] += pieces[2][:, :, at : at + b - a]
                at += b - a
        return *(d.to(dtype) for d, dtype in zip((dq, dk, dv), ctx.dtypes, strict=True)), None, None, None, None


BLOCK, LEAST = 128, 64
"""Queries of one block of the half-precision backward pass, whose score matrices stay in the processor's cache while half of the square is skipped;
and the shortest node that is worth it."""
SPARE = 8
"""Columns beside those of a head: three hold a number of the row, the others make the width one that matmuls like."""
UNIT = 32
"""Sizes of the products are multiples of it: oneDNN makes and keeps a kernel for every size that it meets, half a MiB each."""


def _blocks_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of one node in blocks of queries, by matmuls in the tensors' own half precision. Query heads of one key head share its matmul.

    Half-precision matmuls are where a processor with AVX-512 BF16 or AMX is fast, and torch's own backward does not use them well. What lies between
    them are passes over the scores, so there are three only: what is subtracted from a row (its log-sum-exp, and the product of its output and its
    gradient) is subtracted by the matmul, in columns of its own and before anything is rounded. So the largest probabilities, nearest to exp(0), are
    the most exact. Measured at 600 tokens on Zen 4: 9.7 ms; 12.6 with the softmax in float32; 18.5 for torch's own in float32.

    Shapes: grad, q, out [1, H, S, D]; k, v [1, K, P + S, D]; lse [1, H, S] -> dq [1, H, S, D], dk, dv float32 [1, K, P + S, D].
    """
    (_, heads, size, width), groups, length = q.shape, k.shape[1], k.shape[2]
    offset, per = length - size, heads // k.shape[1]
    # A power of two can be multiplied into the queries without rounding; by any other the scores are multiplied.
    ahead, behind = (scale, 1.0) if math.log2(scale).is_integer() else (1.0, scale)
    rows = (groups, per, size)
    q_rows = _less((q * ahead).reshape(*rows, width), lse.reshape(*rows, 1) / behind)
    g_rows = _less(grad.reshape(*rows, width), (grad.float() * out.float()).sum(-1).view(*rows, 1))
    k_columns, v_columns = _less(k[0]), _less(v[0])
    dq = torch.empty(*q_rows.shape[:3], width, dtype=q.dtype)
    dk, dv = (torch.zeros(*k_columns.shape[:2], width, dtype=torch.float32) for _ in range(2))
    for a in range(0, q_rows.shape[2], BLOCK):
        b = min(q_rows.shape[2], a + BLOCK)
        # What follows a query is cut off below, filling too, and rows that are filling have a gradient of zero.
        seen, flat = _filled(offset + min(b, size)), (groups, per * (b - a), width + SPARE)
        q_block, g_block = (x[:, :, a:b].reshape(flat) for x in (q_rows, g_rows))
        p = torch.bmm(q_block, k_columns[:, :seen].transpose(1, 2))
        if behind != 1:
            p.mul_(behind)
        p.exp_().view(groups, per, b - a, seen)[..., offset + a :].tril_()
        ds = torch.bmm(g_block, v_columns[:, :seen].transpose(1, 2)).mul_(p)
        dv[:, :seen] += torch.bmm(p.transpose(1, 2), g_block[..., :width])
        dk[:, :seen] += torch.bmm(ds.transpose(1, 2), q_block[..., :width])
        dq[:, :, a:b] = torch.bmm(ds, k_columns[:, :seen, :width]).view(groups, per, b - a, width)
    return dq[:, :, :size].mul_(scale).reshape(1, heads, size, width), dk[None, :, :length].mul_(behind), dv[None, :, :length]


def _filled(size: int) -> int:
    return -(-size // UNIT) * UNIT


def _less(x: Tensor, number: Tensor | None = None) -> Tensor:
    """[..., S, D] -> [..., S and zeros up to a whole UNIT, D + SPARE], so that a product of such rows has a number of the left one subtracted.

    Args:
        number: float32 [..., S, 1], held in three parts of half precision, because one has eight bits; None on the right side, which has ones there.
    """
    *leading, size, width = x.shape
    wide = x.new_zeros(*leading, _filled(size), width + SPARE)
    wide[..., :size, :width] = x
    for column in range(width, width + 3):
        part = wide[..., :size, column : column + 1]
        if number is None:
            part.fill_(1)
        else:
            number = number + part.copy_(-number)
    return wide


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    def mask(*arguments: Any, **keywords: Any) -> Tensor | None:
        return None if _PLANNED.get() else sdpa_mask(*arguments, **keywords)

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, mask)


_register()
