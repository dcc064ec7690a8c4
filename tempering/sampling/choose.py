"""Logits -> the next token of every row, with its log-prob.

**How a token is drawn.** Gumbel noise on every token would be exact and would tie a token to its noise, but 49,000 numbers a row cost more than the
row's share of the model. So the vocabulary is cut into blocks of 256 neighbouring ids, and the Gumbel-max rule is used twice: among the blocks by
their mass, then among the tokens of the block that won. That is exact too (a token's probability is its block's times its share of it) and needs a
few hundred numbers a row. The usual alternative, one uniform number and the inverse of the cumulative distribution, is as cheap but fragile: a change
of one token's probability shifts all tokens after it. Here, as with plain Gumbel-max, distributions that are close give the same token nearly always:
it is what keeps samples comparable before and after training, and in bfloat16.

The blocks' log-masses are also what normalises the row, so the [R, V] logits are read once for both.

Shapes: R rows, V vocabulary, B blocks, W tokens of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tempering.sampling.noise import gumbel
from tempering.sampling.types import Request, Top

BLOCK = 256
"""Tokens of a block."""
ROWS = 8
"""Rows that are worked on at a time."""
CANDIDATES = 64
"""How many of the likeliest tokens a nucleus is looked for in at first; 16 times as many at each further try."""


@dataclass(frozen=True)
class Chosen:
    """The next token of each row with its log-prob under the distribution it was drawn from, and the likeliest others where asked for."""

    ids: list[int]
    logps: list[float]
    top: list[Top]


def choose(logits_RV: Tensor, requests: Sequence[Request], streams_R4: np.ndarray, position_R: np.ndarray) -> Chosen:
    """Draws the next token of every row.

    Args:
        logits_RV: after the decode chain, in any precision.
        requests: each row's settings.
        streams_R4, position_R: each row's noise (see `noise.gumbel`).
    """
    sampled = [r for r, request in enumerate(requests) if request.temperature > 0]
    noise_RN = np.zeros((len(requests), -(-logits_RV.shape[1] // BLOCK) + BLOCK))
    if sampled:
        noise_RN[sampled] = gumbel(streams_R4[sampled], position_R[sampled], noise_RN.shape[1])
    noise = torch.from_numpy(noise_RN).to(logits_RV.device)
    chosen = Chosen([], [], [])
    # a few rows at a time, in the same memory: it stays in the processor's cache, and the system is not asked for large pieces at every step
    rows_RV, scratch_RV = torch.empty((2, ROWS, logits_RV.shape[1]), device=logits_RV.device)
    for at in range(0, len(requests), ROWS):
        some = slice(at, min(at + ROWS, len(requests)))
        count = some.stop - at
        ids, logps, top = _choose(rows_RV[:count].copy_(logits_RV[some]), requests[some], noise[some], scratch_RV[:count])
        chosen.ids.extend(ids)
        chosen.logps.extend(logps)
        chosen.top.extend(top)
    return chosen


def _choose(logits_RV: Tensor, requests: Sequence[Request], noise_RN: Tensor, scratch_RV: Tensor) -> tuple[list[int], list[float], list[Top]]:
    logits_RV = _shape(logits_RV, requests)
    most_RB = _by_block(logits_RV, lambda x_RBW: x_RBW.amax(-1))
    mass_RB = _block_masses(logits_RV, most_RB, scratch_RV)
    total_R = mass_RB.logsumexp(-1)
    # Without noise the likeliest token is in the block that has it, the first of equal ones: two short searches instead of one through all.
    greedy_R1 = torch.tensor([request.temperature == 0 for request in requests], device=logits_RV.device)[:, None]
    ids_R = _draw(logits_RV, torch.where(greedy_R1, most_RB, mass_RB), noise_RN)
    logps_R = logits_RV.gather(1, ids_R[:, None])[:, 0] - total_R
    return ids_R.tolist(), logps_R.tolist(), tops(logits_RV, total_R, [request.top_logps for request in requests])


def behaviour_logps(logits_RV: Tensor, *, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Log-probs [R, V] that tokens are drawn from: temperature, then top-k, then nucleus. Temperature 0 (greedy) gives those of temperature 1."""
    return _filtered(logits_RV.float() / (temperature or 1.0), top_k, top_p).log_softmax(-1)


def tops(logits_RV: Tensor, total_R: Tensor, counts: Sequence[int]) -> list[Top]:
    """The `counts[r]` likeliest tokens of each row with their log-probs, given the log of each row's normaliser."""
    found: list[Top] = [()] * len(counts)
    rows = [r for r, count in enumerate(counts) if count > 0]
    if rows:
        values, ids = _some(logits_RV, rows).topk(min(max(counts), logits_RV.shape[1]))
        logps = (values - total_R[rows, None]).tolist()
        for r, row_ids, row_logps in zip(rows, ids.tolist(), logps, strict=True):
            found[r] = tuple(zip(row_ids, row_logps, strict=True))[: counts[r]]
    return found


def _some(x: Tensor, rows: Sequence[int]) -> Tensor:
    # all rows is the usual case, and a copy of [R, V] is not free
    return x if len(rows) == x.shape[0] else x[rows]


def _shape(logits_RV: Tensor, requests: Sequence[Request]) -> Tensor:
    """Temperature (in place), then top-k, then nucleus."""
    temperatures = [request.temperature or 1.0 for request in requests]
    if any(temperature != 1.0 for temperature in temperatures):
        logits_RV.div_(torch.tensor(temperatures, device=logits_RV.device)[:, None])
    vocabulary, groups = logits_RV.shape[1], dict[tuple[int, float], list[int]]()
    for r, request in enumerate(requests):
        if request.top_p < 1 or 0 < request.top_k < vocabulary:
            groups.setdefault((request.top_k, request.top_p), []).append(r)
    for (top_k, top_p), rows in groups.items():
        shaped = _filtered(_some(logits_RV, rows), top_k, top_p)
        logits_RV = shaped if len(rows) == len(requests) else logits_RV.index_copy(0, torch.tensor(rows, device=shaped.device), shaped)
    return logits_RV


def _filtered(logits_RV: Tensor, top_k: int, top_p: float) -> Tensor:
    if 0 < top_k < logits_RV.shape[-1]:
        logits_RV = logits_RV.masked_fill(logits_RV < logits_RV.topk(top_k).values[:, -1:], -torch.inf)
    return logits_RV if top_p >= 1 else logits_RV.masked_fill(_outside_nucleus(logits_RV.softmax(-1), top_p), -torch.inf)


def _outside_nucleus(probs_RV: Tensor, top_p: float, candidates: int = CANDIDATES) -> Tensor:
    """True where the likelier tokens already hold `top_p`; equal probabilities in the order of their ids.

    Sorting the vocabulary costs more than the model, and the nucleus is usually small: it is looked for among the likeliest tokens. Those that are as
    likely as the last candidate do not count, for more of their kind may stand outside.
    """
    rows, vocabulary = probs_RV.shape
    whole = candidates >= vocabulary
    ids = torch.arange(vocabulary, device=probs_RV.device).expand(rows, -1) if whole else probs_RV.topk(candidates).indices.sort(-1).values
    sorted_RC, order_RC = probs_RV.gather(1, ids).sort(descending=True, stable=True)
    before_RC = sorted_RC.cumsum(-1) - sorted_RC
    outside_RV = torch.ones_like(probs_RV, dtype=torch.bool).scatter(1, ids.gather(1, order_RC), before_RC >= top_p)
    if whole:
        return outside_RV
    sure_R = (sorted_RC * (sorted_RC > sorted_RC[:, -1:])).sum(-1) > top_p + 1e-4
    unsure = (~sure_R).nonzero()[:, 0]
    if unsure.numel():
        outside_RV[unsure] = _outside_nucleus(probs_RV[unsure], top_p, 16 * candidates)
    return outside_RV


def _block_masses(logits_RV: Tensor, most_RB: Tensor, scratch_RV: Tensor) -> Tensor:
    """Log of each block's mass [R, B], given the largest logit of each."""
    most_R1 = most_RB.amax(-1, keepdim=True)
    torch.sub(logits_RV, most_R1, out=scratch_RV).exp_()
    return _by_block(scratch_RV, lambda x_RBW: x_RBW.sum(-1)).log() + most_R1


def _by_block(x_RV: Tensor, reduced: Callable[[Tensor], Tensor]) -> Tensor:
    """What [R, B, W] -> [R, B] makes of each block; the last one may be short."""
    whole = x_RV.shape[1] // BLOCK * BLOCK
    pieces = [reduced(x_RV[:, :whole].unflatten(1, (-1, BLOCK)))] if whole else []
    if whole < x_RV.shape[1]:
        pieces.append(reduced(x_RV[:, None, whole:]))
    return torch.cat(pieces, 1)


def _draw(logits_RV: Tensor, mass_RB: Tensor, noise_RN: Tensor) -> Tensor:
    """Gumbel-max among the blocks, then inside the block that won; [R] token ids."""
    blocks = mass_RB.shape[1]
    block_R = (mass_RB.double() + noise_RN[:, :blocks]).argmax(-1)
    ids_RW = block_R[:, None] * BLOCK + torch.arange(BLOCK, device=logits_RV.device)
    inside_RW = logits_RV.gather(1, ids_RW.clamp(max=logits_RV.shape[1] - 1)).double()
    inside_RW = inside_RW.masked_fill(ids_RW >= logits_RV.shape[1], -torch.inf)
    return block_R * BLOCK + (inside_RW + noise_RN[:, blocks:]).argmax(-1)
