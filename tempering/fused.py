"""Hidden states and targets -> log-probs, entropies and log-sum-exps, without [tokens, vocabulary] ever existing.

The vocabulary projection runs on `CHUNK_ELEMENTS // V` scored tokens at a time, so its memory does not grow with the vocabulary nor with the tokens.
Inside of a chunk the passes over the logits go through a few rows at a time, which stay in the processor's cache.

For a plain output layer the gradient is written down rather than derived: with p = softmax(z),

    d logp / dz = onehot - p,    d logsumexp / dz = p,    d entropy / dz = -p * (z - logsumexp + entropy),

so that one buffer of logits becomes its own gradient in place. The logits of the last chunk are kept for the backward pass (most micro-batches are a
single chunk), those of the others are computed again. Any other head (adapters on the output layer, soft-capping, scales, a bias) takes the same
chunks through autograd, recomputed in the backward pass.

Shapes: N scored tokens, C of them in a chunk, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 2**25
"""Elements of one chunk's logits: 64 MiB in bfloat16."""
ROW_ELEMENTS = 2**20
"""Elements that one pass in float32 handles at a time: 4 MiB."""


def scores(
    head: Callable[[Tensor], Tensor], plain: nn.Linear | None, hidden_ND: Tensor, target_N: Tensor, signals: frozenset[str]
) -> dict[str, Tensor]:
    """The signals asked for, float32: "logp", "entropy", "logsumexp" [N], "logits" [N, V].

    Args:
        head: hidden [..., D] -> logits [..., V].
        plain: the output layer, where `head` is nothing but its weight; None takes `head` through autograd.
        hidden_ND: states that predict the targets.
        target_N: int64.
    """
    if plain is not None and "logits" not in signals:
        weight_VD = plain.weight
        if torch.is_autocast_enabled(hidden_ND.device.type):
            dtype = torch.get_autocast_dtype(hidden_ND.device.type)
            weight_VD, hidden_ND = weight_VD.to(dtype), hidden_ND.to(dtype)
        found = _Scores.apply(hidden_ND, weight_VD, target_N, "entropy" in signals)
        return dict(zip(("logp", "logsumexp", "entropy"), found, strict=True))
    return _by_autograd(head, hidden_ND, target_N, signals)


def _rows(vocabulary: int, elements: int) -> int:
    return max(1, elements // vocabulary)


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, entropy: bool) -> tuple[Tensor, Tensor, Tensor]:
        size, vocabulary = hidden_ND.shape[0], weight_VD.shape[0]
        logp_N, logsumexp_N, entropy_N = (torch.zeros(size, dtype=torch.float32, device=hidden_ND.device) for _ in range(3))
        kept = None
        for start in range(0, size, _rows(vocabulary, CHUNK_ELEMENTS)):
            rows = slice(start, min(size, start + _rows(vocabulary, CHUNK_ELEMENTS)))
            kept = logits_CV = hidden_ND[rows] @ weight_VD.T
            for at in range(0, logits_CV.shape[0], _rows(vocabulary, ROW_ELEMENTS)):
                z = logits_CV[at : at + _rows(vocabulary, ROW_ELEMENTS)].float()
                here = slice(rows.start + at, rows.start + at + z.shape[0])
                lse = torch.logsumexp(z, -1)
                logsumexp_N[here] = lse
                logp_N[here] = z.gather(-1, target_N[here, None])[:, 0] - lse
                if entropy:
                    entropy_N[here] = lse - ((z - lse[:, None]).exp_() * z).sum(-1)
        ctx.save_for_backward(hidden_ND, weight_VD, target_N, logsumexp_N, entropy_N)
        ctx.kept = kept if hidden_ND.requires_grad or weight_VD.requires_grad else None
        ctx.entropy = entropy
        return logp_N, logsumexp_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        hidden_ND, weight_VD, target_N, logsumexp_N, entropy_N = ctx.saved_tensors
        size, vocabulary = hidden_ND.shape[0], weight_VD.shape[0]
        d_hidden = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
        d_weight: Tensor | None = None
        starts = range(0, size, _rows(vocabulary, CHUNK_ELEMENTS))
        for start in reversed(starts):
            rows = slice(start, min(size, start + _rows(vocabulary, CHUNK_ELEMENTS)))
            logits_CV, ctx.kept = (ctx.kept if ctx.kept is not None else hidden_ND[rows] @ weight_VD.T), None
            for at in range(0, logits_CV.shape[0], _rows(vocabulary, ROW_ELEMENTS)):
                piece = logits_CV[at : at + _rows(vocabulary, ROW_ELEMENTS)]
                here = slice(rows.start + at, rows.start + at + piece.shape[0])
                g_logp, g_lse, g_entropy = (g[here, None] for g in grads)
                z = piece.float().sub_(logsumexp_N[here, None])
                weight = g_lse - g_logp
                if ctx.entropy:
                    weight = weight - g_entropy * (z + entropy_N[here, None])
                z = z.exp_().mul_(weight).scatter_add_(-1, target_N[here, None], g_logp)
                piece.copy_(z)
            if d_hidden is not None:
                d_hidden[rows] = logits_CV @ weight_VD
            if ctx.needs_input_grad[1]:
                share = logits_CV.T @ hidden_ND[rows]
                d_weight = share if d_weight is None else d_weight.float().add_(share)
        return d_hidden, d_weight.to(weight_VD.dtype) if d_weight is not None else None, None, None


def _by_autograd(head: Callable[[Tensor], Tensor], hidden_ND: Tensor, target_N: Tensor, signals: frozenset[str]) -> dict[str, Tensor]:
    def chunk(hidden: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        logits = head(hidden).float()
        logsumexp = torch.logsumexp(logits, -1)
        entropy = logsumexp - (torch.softmax(logits, -1) * logits).sum(-1) if "entropy" in signals else logsumexp
        return (logits.gather(-1, target.unsqueeze(-1)).squeeze(-1) - logsumexp, entropy, logsumexp, *([logits] if "logits" in signals else []))

    # Half a chunk, because the logits are float32 here.
    size = _rows(head(hidden_ND[:1]).shape[-1], CHUNK_ELEMENTS // 2)
    pieces = []
    for hidden, target in zip(hidden_ND.split(size), target_N.split(size), strict=True):
        pieces.append(checkpoint(chunk, hidden, target, use_reentrant=False) if torch.is_grad_enabled() else chunk(hidden, target))
    columns = [torch.cat(column) for column in zip(*pieces, strict=True)]
    return dict(zip(("logp", "entropy", "logsumexp", "logits"), columns, strict=False))
