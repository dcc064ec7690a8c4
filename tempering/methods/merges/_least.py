"""Least squares by sums of products."""

from __future__ import annotations

import torch
from torch import Tensor


def solved(gram: Tensor, right: Tensor) -> Tensor:
    """The X with `gram` X = `right`. Where the inputs say too little for that, the shortest of the X that come nearest, and what carries less than a
    millionth of the inputs counts as nothing."""
    # Scaled to ones on the diagonal, the sum has no eigenvalue below 1 - alpha, so for an alpha below 1 this is fast and exact.
    scale = torch.where(gram.diag() > 0, gram.diag().rsqrt(), 0)
    scaled = (scale[:, None] * gram * scale).fill_diagonal_(1)
    factor, failed = torch.linalg.cholesky_ex(scaled)
    if failed or factor.diag().min() < 1e-3:
        return torch.linalg.lstsq(gram, right, rcond=1e-6, driver="gelsy").solution
    return scale[:, None] * torch.cholesky_solve(scale[:, None] * right, factor)
