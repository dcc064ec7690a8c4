"""The k largest magnitudes of a tensor without sorting it: what is largest is found by counting bits, in a time that grows with the size alone.

Numbers of equal magnitude are frequent in bfloat16, so which of them are kept is part of the method: the first, or the last, in the tensor's order.
"""

from __future__ import annotations

import torch
from torch import Tensor

_HALF = (torch.bfloat16, torch.float16)


def largest(size: Tensor, k: int, *, last: bool = False) -> Tensor:
    """Where the k largest of magnitudes [N, no negative one] are, bool [N]; of equal ones the first, or the last. Zeros are never among them: keeping
    a change of zero is nothing."""
    if k <= 0:
        return torch.zeros_like(size, dtype=torch.bool)
    if k >= size.numel():
        return size > 0
    edge = _kth(size, k)
    kept = size > edge
    missing = k - int(kept.sum())
    if edge > 0 and missing:
        equal = (size == edge).nonzero()[:, 0]
        kept[equal[-missing:] if last else equal[:missing]] = True
    return kept


def _kth(size: Tensor, k: int) -> Tensor:
    """The k-th largest. The bits of numbers that are not negative, read as an integer, are in the order of the numbers."""
    if size.dtype in _HALF:
        found, _ = _cut(size.view(torch.int16), k, 15)
        return torch.tensor(found, dtype=torch.int16).view(size.dtype)
    if size.dtype == torch.float32:
        bits = size.view(torch.int32)
        high, k = _cut(bits >> 16, k, 15)
        low, _ = _cut(bits[(bits >> 16) == high] & 0xFFFF, k, 16)
        return torch.tensor((high << 16) + low, dtype=torch.int32).view(torch.float32)
    return size.kthvalue(size.numel() - k + 1).values


def _cut(values: Tensor, k: int, bits: int) -> tuple[int, int]:
    """(the k-th largest of integers below 2^bits, how many of that value are among the k largest)."""
    counts = torch.bincount(values, minlength=2**bits).flip(0)
    above = counts.cumsum(0)
    at = int(torch.searchsorted(above, k))
    return 2**bits - 1 - at, k - int(above[at] - counts[at])
