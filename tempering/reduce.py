"""Segment sums and global counts: the only place that divides.

Methods return unreduced losses. Sums, means and ends of segments, and sums over a group, are what they may use themselves; all else happens here, by
a divisor that is counted over the whole optimizer step. So accumulation, packing and data parallelism are exact by construction: a micro-batch never
sees its own mean.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tempering.types import Batch, Norm, Objective


def masked(x_T: Tensor, batch: Batch) -> Tensor:
    """`weight_T * x_T` of a per-token tensor [T] or [T, ...], exactly 0 outside the mask whatever stands there (NaN too)."""
    weight_T = _beside(batch.weight_T, x_T)
    return torch.where(weight_T != 0, x_T, 0.0) * weight_T


def scored(x_T: Tensor, batch: Batch) -> Tensor:
    """The entries of the scored tokens [N, ...] of a per-token tensor, in order."""
    # Not by a mask, which a plan's tensors without contents cannot be cut by.
    return x_T.index_select(0, (batch.weight_T != 0).nonzero().squeeze(-1))


def unscored(x_N: Tensor, batch: Batch) -> Tensor:
    """A value for each scored token [N] as one for each token [T], 0 elsewhere."""
    places_N = (batch.weight_T != 0).nonzero().squeeze(-1)
    return torch.zeros(batch.num_tokens, dtype=x_N.dtype, device=x_N.device).index_copy(0, places_N, x_N)


def _beside(x: Tensor, other: Tensor) -> Tensor:
    """`x` [N] with as many trailing dimensions of size 1 as `other` [N, ...] has."""
    return x.view(-1, *[1] * (other.dim() - 1))


def segment_sum(x_T: Tensor, batch: Batch) -> Tensor:
    """Weighted sum of a per-token tensor over each segment: [T] -> [S], [T, H] -> [S, H]."""
    x_T = masked(x_T, batch)
    return torch.zeros((batch.num_segments, *x_T.shape[1:]), dtype=x_T.dtype, device=x_T.device).index_add(0, batch.segment_T, x_T)


def segment_weight(batch: Batch) -> Tensor:
    """Sum of the token weights of each segment [S]; 0 for a segment without any scored token."""
    return segment_sum(torch.ones_like(batch.weight_T), batch)


def segment_mean(x_T: Tensor, batch: Batch) -> Tensor:
    """Weighted mean of a per-token tensor over each segment: [T] -> [S], [T, H] -> [S, H]; 0 where a segment has no scored token."""
    weight_S = segment_weight(batch)
    return segment_sum(x_T, batch) / _beside(torch.where(weight_S == 0, 1.0, weight_S), x_T)


def discounted(x_T: Tensor, batch: Batch, gamma: float) -> Tensor:
    """What is still to come: sum over k >= t of gamma^(k - t) weight_k x_k within each segment, [T] -> [T].

    Only scored tokens count, k - t in their number; 0 where a token is not scored.
    """
    scored_N = (batch.weight_T != 0).nonzero().squeeze(-1)
    sum_N, segment_N = masked(x_T, batch)[scored_N], batch.segment_T[scored_N]
    # Twice as many terms each time: the sum of the first m, and that of m more from m further on.
    for m in (1 << i for i in range(len(scored_N).bit_length())):
        ahead_N = torch.where(segment_N[m:] == segment_N[:-m], sum_N[m:], 0.0)
        sum_N = sum_N + gamma**m * F.pad(ahead_N, (0, len(sum_N) - len(ahead_N)))
    return torch.zeros(x_T.shape, dtype=sum_N.dtype, device=x_T.device).index_copy(0, scored_N, sum_N)


def last(x_T: Tensor, batch: Batch) -> Tensor:
    """The value at each segment's last scored token, as it is, unweighted: [T] -> [S], [T, H] -> [S, H]; 0 where a segment has none."""
    return _at(x_T, batch, "amax")


def first(x_T: Tensor, batch: Batch) -> Tensor:
    """The value at each segment's first scored token, as it is, unweighted: [T] -> [S], [T, H] -> [S, H]; 0 where a segment has none."""
    return _at(x_T, batch, "amin")


def _at(x_T: Tensor, batch: Batch, how: str) -> Tensor:
    scored_N = (batch.weight_T != 0).nonzero().squeeze(-1)
    none_S = torch.full((batch.num_segments,), -1, device=scored_N.device)
    place_S = none_S.scatter_reduce(0, batch.segment_T[scored_N], scored_N, how, include_self=False)
    there_S = place_S >= 0
    if not len(x_T):
        # Still a function of x, so that a process without rows takes part in the others' backward pass.
        return x_T.new_zeros((batch.num_segments, *x_T.shape[1:])) + x_T.sum(0)
    x_S = x_T.index_select(0, place_S.clamp(min=0))
    return torch.where(_beside(there_S, x_S), x_S, 0.0)


# Over the segments of a group (a prompt's answers): what list-wise losses are made of. G groups are numbered anyhow; segments may lie in any order.


def group_index(batch: Batch) -> tuple[Tensor, int]:
    """Each segment's group as 0..G-1 [S], and G."""
    groups, index_S = batch.group_S.unique(return_inverse=True)
    return index_S, groups.numel()


def group_sum(x_S: Tensor, batch: Batch) -> Tensor:
    """Each segment's group's sum [S] of a per-segment tensor [S]."""
    index_S, groups = group_index(batch)
    return torch.zeros(groups, dtype=x_S.dtype, device=x_S.device).index_add(0, index_S, x_S)[index_S]


def group_mean(x_S: Tensor, batch: Batch) -> Tensor:
    """Each segment's group's mean [S]."""
    return group_sum(x_S, batch) / group_sum(torch.ones_like(x_S), batch)


def group_logsumexp(x_S: Tensor, batch: Batch) -> Tensor:
    """Each segment's group's log-sum-exp [S]; -inf entries take no part, but not all of a group may be -inf."""
    index_S, groups = group_index(batch)
    most_G = torch.full((groups,), -torch.inf, dtype=x_S.dtype, device=x_S.device).scatter_reduce(0, index_S, x_S.detach(), "amax")
    return most_G[index_S] + group_sum(torch.exp(x_S - most_G[index_S]), batch).log()


def group_log_softmax(x_S: Tensor, batch: Batch) -> Tensor:
    """Log-softmax of a per-segment tensor over the segments of each group: [S] -> [S]."""
    return x_S - group_logsumexp(x_S, batch)


def group_rank(x_S: Tensor, batch: Batch) -> Tensor:
    """Each segment's place in its group by falling `x_S`: 0 for the largest; of equal ones the earlier is first. int64 [S]."""
    index_S, _ = group_index(batch)
    order_S = torch.argsort(x_S.detach(), descending=True, stable=True)
    order_S = order_S[torch.argsort(index_S[order_S], stable=True)]
    sorted_S = index_S[order_S]
    start_S = torch.searchsorted(sorted_S, sorted_S)
    return torch.empty_like(order_S).index_copy(0, order_S, torch.arange(len(order_S), device=order_S.device) - start_S)


def group_plackett_luce(x_S: Tensor, by_S: Tensor, batch: Batch) -> Tensor:
    """Log of the chance that each segment is drawn before all that rank below it in its group, with worths exp(x): x - logsumexp over these and x.

    Args:
        x_S: log-worths [S], with gradient.
        by_S: what the segments are ranked by, higher first [S]; of equal ones the earlier is first.

    Returns [S]; summed over a group it is the ranking's Plackett-Luce log-probability (the last place gives 0).
    """
    rank_S = group_rank(by_S, batch)
    below_SS = (batch.group_S[:, None] == batch.group_S[None]) & (rank_S[None] >= rank_S[:, None])
    return x_S - torch.logsumexp(torch.where(below_SS, x_S[None], -torch.inf), -1)


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
