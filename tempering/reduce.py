"""Segment sums and global counts: the only place that divides.

Methods return unreduced losses. `segment_sum` is the one reduction they may use themselves; everything else happens here, by a divisor that is
counted over the whole optimizer step. So accumulation, packing and data parallelism are exact by construction: a micro-batch never sees its own mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tempering.types import Batch, Norm, Objective


def masked(x_T: Tensor, batch: Batch) -> Tensor:
    """`weight_T * x_T`, exactly 0 outside the mask whatever stands there (NaN too)."""
    return torch.where(batch.weight_T != 0, x_T, 0.0) * batch.weight_T


def segment_sum(x_T: Tensor, batch: Batch) -> Tensor:
    """Weighted sum of a per-token tensor over each segment: [T] -> [S]."""
    x_T = masked(x_T, batch)
    return torch.zeros(batch.num_segments, dtype=x_T.dtype, device=x_T.device).index_add(0, batch.segment_T, x_T)


def segment_weight(batch: Batch) -> Tensor:
    """Sum of the token weights of each segment [S]; 0 for a segment without any scored token."""
    return segment_sum(torch.ones_like(batch.weight_T), batch)


def segment_mean(x_T: Tensor, batch: Batch) -> Tensor:
    """Weighted mean of a per-token tensor over each segment: [T] -> [S]; 0 where a segment has no scored token."""
    weight_S = segment_weight(batch)
    return segment_sum(x_T, batch) / torch.where(weight_S == 0, 1.0, weight_S)


def count(norm: Norm, batch: Batch) -> float:
    """The divisor of `norm` for one batch, which must be the whole optimizer step's (sum the counts of micro-batches otherwise).

    Segments and groups without any scored token do not count.
    """
    if not isinstance(norm, str):
        return float(norm)
    if norm == "tokens":
        return float(batch.weight_T.sum(dtype=torch.float64))
    scored_S = segment_weight(batch) != 0
    if norm in ("segments", "segment_mean"):
        return float(scored_S.sum())
    return float(batch.group_S[scored_S].unique().numel())


def reduce(losses: Tensor, objective: Objective, batch: Batch, divisor: float) -> Tensor:
    """Unreduced losses of one micro-batch -> its share of the step's loss (a scalar; shares add up to the step's loss)."""
    if divisor == 0:
        return losses.sum() * 0.0
    if objective.per == "segment":
        if objective.norm in ("tokens", "segment_mean"):
            raise TypeError(f"{type(objective).__name__}: losses per segment cannot be divided by {objective.norm!r}; use 'segments' or 'groups'")
        return torch.where(segment_weight(batch) != 0, losses, 0.0).sum() / divisor
    if objective.norm == "segment_mean":
        return segment_mean(losses, batch).sum() / divisor
    return masked(losses, batch).sum() / divisor
