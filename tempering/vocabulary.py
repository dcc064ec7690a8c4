"""Signals that look at the whole vocabulary beyond what every method needs, in the chunks of fused.py: [tokens, vocabulary] never exists.

    mean_logp    mean over the vocabulary of log p: what label smoothing and a KL from the uniform distribution are made of
    logsumexp2   log of the sum over the vocabulary of p^2: the log of the chance that two draws agree (WPO's weight, arXiv 2406.11827, section 3.3)
    max_logp     the log-prob of the likeliest token; the target is that token where logp equals it

Whoever asks for one of them gets the usual ones (logp, entropy, logsumexp) from the same pass. With p = softmax(z) over V tokens, for a plain output
layer, the gradients are written down:

    d mean_logp / dz = 1 / V - p,    d logsumexp2 / dz = 2 (p^2 / sum p^2 - p),    d max_logp / dz = onehot(argmax) - p.

Shapes as in fused.py: N scored tokens, C of them in a chunk, D hidden size, V vocabulary. V counts the output layer's rows, padding too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tempering import fused
from tempering.precision import multiplied_in

EXTRA = frozenset({"mean_logp", "logsumexp2", "max_logp"})
ORDER = ("logp", "logsumexp", "entropy", "mean_logp", "logsumexp2", "max_logp")


def wide_scores(
    head: Callable[[Tensor], Tensor], plain: nn.Linear | None, hidden_ND: Tensor, target_N: Tensor, signals: frozenset[str]
) -> dict[str, Tensor]:
    """What `fused.scores` gives, and the signals of `EXTRA` [N]; float32 (float64 where the states are).

    Args:
        head, plain, hidden_ND, target_N: as for `fused.scores`.
    """
    if plain is None or "logits" in signals:
        return _by_autograd(head, hidden_ND, target_N, signals)
    dtype = multiplied_in(hidden_ND)
    return dict(zip(ORDER, _Wide.apply(hidden_ND.to(dtype), plain.weight.to(dtype), target_N), strict=True))


def _wide(z: Tensor) -> Tensor:
    return z if z.dtype == torch.float64 else z.float()


def _read(z_CV: Tensor, target_C: Tensor) -> tuple[Tensor, ...]:
    """All of `ORDER` [C] from logits."""
    lse = torch.logsumexp(z_CV, -1)
    logp_CV = z_CV - lse[:, None]
    entropy = -(logp_CV.exp() * logp_CV).sum(-1)
    logp = logp_CV.gather(-1, target_C[:, None])[:, 0]
    return logp, lse, entropy, logp_CV.mean(-1), torch.logsumexp(2 * logp_CV, -1), logp_CV.amax(-1)


class _Wide(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> tuple[Tensor, ...]:
        size, vocabulary = hidden_ND.shape[0], weight_VD.shape[0]
        kind = torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32
        found = tuple(torch.zeros(size, dtype=kind, device=hidden_ND.device) for _ in ORDER)
        for start in range(0, size, fused._rows(vocabulary, fused.CHUNK_ELEMENTS)):
            logits_CV = hidden_ND[start : start + fused._rows(vocabulary, fused.CHUNK_ELEMENTS)] @ weight_VD.T
            for at in range(0, logits_CV.shape[0], fused._rows(vocabulary, fused.ROW_ELEMENTS)):
                z = _wide(logits_CV[at : at + fused._rows(vocabulary, fused.ROW_ELEMENTS)])
                here = slice(start + at, start + at + z.shape[0])
                for into, value in zip(found, _read(z, target_N[here]), strict=True):
                    into[here] = value
        ctx.save_for_backward(hidden_ND, weight_VD, target_N, *found[1:3], found[4])
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        hidden_ND, weight_VD, target_N, lse_N, entropy_N, two_N = ctx.saved_tensors
        size, vocabulary = hidden_ND.shape[0], weight_VD.shape[0]
        d_hidden = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
        d_weight: Tensor | None = None
        for start in range(0, size, fused._rows(vocabulary, fused.CHUNK_ELEMENTS)):
            rows = slice(start, min(size, start + fused._rows(vocabulary, fused.CHUNK_ELEMENTS)))
            logits_CV = hidden_ND[rows] @ weight_VD.T
            for at in range(0, logits_CV.shape[0], fused._rows(vocabulary, fused.ROW_ELEMENTS)):
                piece = logits_CV[at : at + fused._rows(vocabulary, fused.ROW_ELEMENTS)]
                here = slice(start + at, start + at + piece.shape[0])
                g_logp, g_lse, g_entropy, g_mean, g_two, g_max = (g[here, None] for g in grads)
                logp = _wide(piece) - lse_N[here, None]
                best = logp.argmax(-1, keepdim=True)
                weight = g_lse - g_logp - g_mean - 2 * g_two - g_max - g_entropy * (logp + entropy_N[here, None])
                p = logp.exp()
                # 2 p^2 / sum p^2, as a logarithm so that small probabilities do not vanish twice.
                d_z = p * weight + 2 * g_two * torch.exp(2 * logp - two_N[here, None]) + g_mean / vocabulary
                piece.copy_(d_z.scatter_add_(-1, target_N[here, None], g_logp).scatter_add_(-1, best, g_max))
            if d_hidden is not None:
                d_hidden[rows] = logits_CV @ weight_VD
            if ctx.needs_input_grad[1]:
                share = logits_CV.T @ hidden_ND[rows]
                d_weight = share if d_weight is None else _wide(d_weight).add_(share)
        return d_hidden, d_weight.to(weight_VD.dtype) if d_weight is not None else None, None


def _by_autograd(head: Callable[[Tensor], Tensor], hidden_ND: Tensor, target_N: Tensor, signals: frozenset[str]) -> dict[str, Tensor]:
    def read(logits: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        z_CV = _wide(logits)
        return (*_read(z_CV, target), *([z_CV] if "logits" in signals else []))

    return dict(zip((*ORDER, "logits"), fused.in_chunks(head, read, hidden_ND, target_N), strict=False))
