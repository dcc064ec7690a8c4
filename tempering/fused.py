"""Hidden states and targets -> log-probs, entropies and log-sum-exps, without [tokens, vocabulary] ever existing.

The vocabulary projection runs on `CHUNK_ELEMENTS // V` scored tokens at a time, so its memory does not grow with the vocabulary nor with the tokens.
Inside of a chunk the passes over the logits go through a few rows at a time, which stay in the processor's cache.

For a plain output layer the gradient is written down rather than derived: with p = softmax(z),

    d logp / dz = onehot - p,    d logsumexp / dz = p,    d entropy / dz = -p * (z - logsumexp + entropy),

so that one buffer of logits becomes its own gradient in place. The logits of the last chunk are kept for the backward pass (most micro-batches are a
single chunk), those of the others are computed again. Where the layer does not train (adapters below it), the gradient by the states is made with the
log-probs, and no logits are kept. Any other head (adapters on the output layer, soft-capping, scales, a bias) takes the same chunks through
autograd, recomputed in the backward pass.

Shapes: N scored tokens, C of them in a chunk, D hidden size, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from tempering.errors import UserError
from tempering.precision import multiplied_in

CHUNK_ELEMENTS = 2**25
"""Elements of one chunk's logits: 64 MiB in bfloat16."""
PASSING_ELEMENTS = 2**24
"""The same on a CPU where no logits are kept: as fast as larger ones, in half of their memory."""
ROW_ELEMENTS = 2**20
"""Elements that one pass in float32 handles at a time: 4 MiB."""
BLOCK_ELEMENTS = 2**21
"""Elements of the output layer's gradient that are worked out at a time."""


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
        hidden_ND, grad = hidden_ND.to(multiplied_in(hidden_ND)), torch.is_grad_enabled()
        if "entropy" in signals or (grad and plain.weight.requires_grad) or hasattr(plain.weight, "device_mesh"):
            found = _Scores.apply(hidden_ND, plain.weight, target_N, "entropy" in signals, grad)
        else:
            found = _Slopes.apply(hidden_ND, plain.weight, target_N, grad and hidden_ND.requires_grad)
        return dict(zip(("logp", "logsumexp", "entropy"), found, strict=False))
    return _by_autograd(head, hidden_ND, target_N, signals)


def likeliest(head: Callable[[Tensor], Tensor], hidden_ND: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """The log-probs of the `k` likeliest tokens at each state, float32 [N, k], and which they are, int64 [N, k]. No gradient.

    Raises:
        UserError: the vocabulary is smaller.
    """

    def top(logits: Tensor) -> tuple[Tensor, Tensor]:
        # Of equal logits the first is the likeliest; `topk` may take another.
        value, index = logits.max(-1, keepdim=True) if k == 1 else logits.topk(k, -1)
        return value - logits.logsumexp(-1, keepdim=True), index

    with torch.no_grad():
        vocabulary = head(hidden_ND[:1]).shape[-1]
        if k > vocabulary:
            raise UserError(f"the {k} likeliest tokens: the vocabulary has {vocabulary}; ask for fewer")
        found = [top(head(hidden).float()) for hidden in hidden_ND.split(_rows(vocabulary, CHUNK_ELEMENTS // 2))]
        return torch.cat([value for value, _ in found]), torch.cat([index for _, index in found])


def _rows(vocabulary: int, elements: int) -> int:
    return max(1, elements // vocabulary)


class _Pool:
    """Buffers that the next micro-batch uses again, one for each use: of logits, of the output layer in half precision, of a block of its gradient.

    They are the largest tensors of a step, so an allocator gives their memory back to the system each time, and every page of it has to be fetched
    and cleared again: on a CPU that costs as much as the products that fill them.
    """

    def __init__(self) -> None:
        self.free: dict[str, Tensor] = {}

    def take(self, use: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """An uninitialised tensor of this shape, of the dtype and device of another."""
        size = math.prod(shape)
        # Tensors of other kinds (without contents, in pieces on several processes) go their own way.
        buffer = self.free.pop(use, None) if type(like) in _ORDINARY else None
        if buffer is not None and buffer.dtype == like.dtype and buffer.device == like.device and size <= buffer.numel():
            return buffer[:size].view(shape)
        # One that is too small goes before a larger one comes.
        del buffer
        return like.new_empty(size).view(shape)

    def give(self, use: str, tensor: Tensor | None) -> None:
        """Take back a tensor that nobody reads any more; of two the larger stays."""
        if tensor is not None and type(tensor) is Tensor and tensor.device.type == "cpu":
            base = tensor._base if tensor._base is not None else tensor
            if use not in self.free or self.free[use].numel() < base.numel():
                self.free[use] = base.view(-1)


_ORDINARY = (Tensor, nn.Parameter)
_POOL = _Pool()


def forget() -> None:
    """Let go of the buffers: nothing trains any more."""
    _POOL.free = {}


def _product(use: str, a: Tensor, b: Tensor) -> Tensor:
    return torch.mm(a, b, out=_POOL.take(use, (a.shape[0], b.shape[1]), a))


def _in_dtype(weight_VD: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight in the matmuls' dtype: itself, or a copy in a buffer of the pool."""
    return weight_VD if weight_VD.dtype == dtype else _POOL.take("head", tuple(weight_VD.shape), weight_VD.new_empty(0, dtype=dtype)).copy_(weight_VD)


def _product_into(put: Callable[[Tensor, Tensor], Tensor], into_VD: Tensor, a_VC: Tensor, b_CD: Tensor) -> None:
    """`put(into, a @ b)`, some rows of the vocabulary at a time: each product is read while in the processor's cache."""
    ordinary = not hasattr(into_VD, "device_mesh")
    step = _rows(b_CD.shape[1], BLOCK_ELEMENTS) if ordinary else max(1, a_VC.shape[0])
    for at in range(0, a_VC.shape[0], step):
        share = _product("block", a_VC[at : at + step], b_CD)
        put(into_VD[at : at + step] if ordinary else into_VD, share)
        _POOL.give("block", share)


def _pieces(logits_CV: Tensor, start: int) -> Iterator[tuple[Tensor, slice]]:
    """A chunk's logits, as many rows at a time as stay in the processor's cache, and where they stand among all tokens, given the chunk's start."""
    step = _rows(logits_CV.shape[1], ROW_ELEMENTS)
    for at in range(0, logits_CV.shape[0], step):
        piece = logits_CV[at : at + step]
        yield piece, slice(start + at, start + at + piece.shape[0])


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, entropy: bool, grad: bool) -> tuple[Tensor, Tensor, Tensor]:
        size, vocabulary = hidden_ND.shape[0], weight_VD.shape[0]
        logp_N, logsumexp_N, entropy_N = (torch.zeros(size, dtype=torch.float32, device=hidden_ND.device) for _ in range(3))
        half_VD = _in_dtype(weight_VD, hidden_ND.dtype)
        kept: Tensor | None = None
        for start in range(0, size, _rows(vocabulary, CHUNK_ELEMENTS)):
            rows = slice(start, min(size, start + _rows(vocabulary, CHUNK_ELEMENTS)))
            _POOL.give("logits", kept)
            # Where the pool does not take it, it goes before the next one comes.
            kept = piece = z = None
            kept = _product("logits", hidden_ND[rows], half_VD.T)
            for piece, here in _pieces(kept, start):
                z = piece.float()
                lse = torch.logsumexp(z, -1)
                logsumexp_N[here] = lse
                logp_N[here] = z.gather(-1, target_N[here, None])[:, 0] - lse
                if entropy:
                    entropy_N[here] = lse - ((z - lse[:, None]).exp_() * z).sum(-1)
        ctx.save_for_backward(hidden_ND, target_N, logsumexp_N, entropy_N)
        # The parameter itself, whose gradient may be added to: what is saved comes back as another tensor where hooks watch what is saved.
        ctx.weight, ctx.kept, ctx.half, ctx.entropy = weight_VD, kept, half_VD, entropy
        if not (grad and (hidden_ND.requires_grad or weight_VD.requires_grad)):
            _release(ctx, weight_VD)
        return logp_N, logsumexp_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        hidden_ND, target_N, logsumexp_N, entropy_N = ctx.saved_tensors
        weight_VD = ctx.weight
        size, vocabulary = hidden_ND.shape[0], weight_VD.shape[0]
        half_VD = ctx.half if ctx.half is not None else _in_dtype(weight_VD, hidden_ND.dtype)
        d_hidden = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
        d_weight: Tensor | None = None
        starts = range(0, size, _rows(vocabulary, CHUNK_ELEMENTS))
        for start in reversed(starts):
            rows = slice(start, min(size, start + _rows(vocabulary, CHUNK_ELEMENTS)))
            logits_CV, ctx.kept = (ctx.kept if ctx.kept is not None else _product("logits", hidden_ND[rows], half_VD.T)), None
            for piece, here in _pieces(logits_CV, start):
                g_logp, g_lse, g_entropy = (g[here, None] for g in grads)
                z = piece.float().sub_(logsumexp_N[here, None])
                weight = g_lse - g_logp
                if ctx.entropy:
                    weight = weight - g_entropy * (z + entropy_N[here, None])
                z = z.exp_().mul_(weight).scatter_add_(-1, target_N[here, None], g_logp)
                piece.copy_(z)
            if d_hidden is not None:
                d_hidden[rows] = logits_CV @ half_VD
            if ctx.needs_input_grad[1]:
                # Straight to where gradients are summed, where the loop allows it: no second tensor of the vocabulary's size, nor of tied embeddings.
                straight = d_weight is None and accumulates(weight_VD)
                into, put = weight_VD.grad if straight else d_weight, Tensor.add_
                if into is None:
                    into, put = torch.empty_like(weight_VD), Tensor.copy_
                    if straight:
                        weight_VD.grad = into
                    else:
                        d_weight = into
                _product_into(put, into, logits_CV.T, hidden_ND[rows])
            _POOL.give("logits", logits_CV)
            logits_CV = piece = z = None
        ctx.half = half_VD
        _release(ctx, weight_VD)
        return d_hidden, d_weight, None, None, None


def _release(ctx: Any, weight_VD: Tensor) -> None:
    _POOL.give("logits", ctx.kept)
    if ctx.half is not weight_VD:
        _POOL.give("head", ctx.half)
    ctx.kept = ctx.half = None


class _Slopes(torch.autograd.Function):
    """Log-probs under an output layer that does not train.

    Their slope by a state, weight[target] - p @ weight, hangs on nothing that comes later. So it is made at once, from the logits at hand: none wait
    for the backward pass, and none are made again in it.
    """

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, slopes: bool) -> tuple[Tensor, Tensor]:
        size, vocabulary = hidden_ND.shape[0], weight_VD.shape[0]
        logp_N, logsumexp_N = (torch.zeros(size, dtype=torch.float32, device=hidden_ND.device) for _ in range(2))
        slope_ND = torch.empty_like(hidden_ND) if slopes else None
        half_VD = _in_dtype(weight_VD, hidden_ND.dtype)
        most = _rows(vocabulary, PASSING_ELEMENTS if hidden_ND.device.type == "cpu" else CHUNK_ELEMENTS)
        # Chunks of one size, which one buffer fits.
        step = math.ceil(size / max(1, math.ceil(size / most)))
        for start in range(0, size, max(1, step)):
            rows = slice(start, min(size, start + step))
            logits_CV = _product("logits", hidden_ND[rows], half_VD.T)
            for piece, here in _pieces(logits_CV, start):
                z, target_P1 = piece.float(), target_N[here, None]
                own_P1, top_P1 = z.gather(-1, target_P1), z.amax(-1, keepdim=True)
                total_P1 = z.sub_(top_P1).exp_().sum(-1, keepdim=True)
                lse_P1 = total_P1.log() + top_P1
                logsumexp_N[here], logp_N[here] = lse_P1[:, 0], (own_P1 - lse_P1)[:, 0]
                if slopes:
                    # The difference from the target is made before it is rounded: near 1 a probability has no digits left for it.
                    piece.copy_(z.div_(total_P1.neg_()).scatter_add_(-1, target_P1, torch.ones_like(lse_P1)))
            if slope_ND is not None:
                slope_ND[rows] = logits_CV @ half_VD
            _POOL.give("logits", logits_CV)
            logits_CV = piece = z = None
        if half_VD is not weight_VD:
            _POOL.give("head", half_VD)
        ctx.save_for_backward(slope_ND, target_N)
        ctx.weight = weight_VD
        ctx.set_materialize_grads(False)
        return logp_N, logsumexp_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:  # type: ignore[override]  # the decorator makes `ctx` positional
        (slope_ND, target_N), (g_logp_N, g_logsumexp_N) = ctx.saved_tensors, grads
        d_hidden: Tensor | None = None
        if g_logp_N is not None:
            d_hidden = g_logp_N[:, None] * slope_ND
        if g_logsumexp_N is not None:
            # d logsumexp / d hidden = p @ weight
            d = g_logsumexp_N[:, None] * (ctx.weight[target_N] - slope_ND)
            d_hidden = d if d_hidden is None else d_hidden + d
        return None if d_hidden is None else d_hidden.to(slope_ND.dtype), None, None, None


_ACCUMULATE: ContextVar[bool] = ContextVar("tempering_accumulate", default=False)


@contextmanager
def accumulating(on: bool) -> Iterator[None]:
    """Inside, a backward pass may add to the gradients of leaves by itself: a training loop of one process, which sums them and nothing else."""
    token = _ACCUMULATE.set(on)
    try:
        yield
    finally:
        _ACCUMULATE.reset(token)


def accumulates(weight: Tensor) -> bool:
    """Whether this weight's gradient may be added to outside of autograd, or put there first: nobody watches it being accumulated."""
    watched = weight._backward_hooks or getattr(weight, "_post_accumulate_grad_hooks", None)
    return _ACCUMULATE.get() and weight.is_leaf and not watched and (weight.grad is None or weight.grad.layout is torch.strided)


def _by_autograd(head: Callable[[Tensor], Tensor], hidden_ND: Tensor, target_N: Tensor, signals: frozenset[str]) -> dict[str, Tensor]:
    def read(logits: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        logits = logits.float()
        logsumexp = torch.logsumexp(logits, -1)
        entropy = logsumexp - (torch.softmax(logits, -1) * logits).sum(-1) if "entropy" in signals else logsumexp
        return (logits.gather(-1, target.unsqueeze(-1)).squeeze(-1) - logsumexp, entropy, logsumexp, *([logits] if "logits" in signals else []))

    return dict(zip(("logp", "entropy", "logsumexp", "logits"), in_chunks(head, read, hidden_ND, target_N), strict=False))


def in_chunks(
    head: Callable[[Tensor], Tensor], read: Callable[[Tensor, Tensor], tuple[Tensor, ...]], hidden_ND: Tensor, target_N: Tensor
) -> list[Tensor]:
    """What `read` makes of the logits of any output layer, some tokens at a time; logits are computed again in the backward pass, not kept."""

    def chunk(hidden: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        return read(head(hidden), target)

    # Half a chunk, because the logits are float32 here.
    size = _rows(head(hidden_ND[:1]).shape[-1], CHUNK_ELEMENTS // 2)
    pieces = []
    for hidden, target in zip(hidden_ND.split(size), target_N.split(size), strict=True):
        pieces.append(checkpoint(chunk, hidden, target, use_reentrant=False) if torch.is_grad_enabled() else chunk(hidden, target))
    return [torch.cat(column) for column in zip(*pieces, strict=True)]
