"""A hand-worked merge as tensors: through the method in float64, and compared with what was worked out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tempering.cases import MergeCase
from tempering.merges import Draw


def given(numbers: Sequence[float]) -> Draw:
    """Random numbers that are no such thing: these, in order."""
    left = list(numbers)

    def draw(shape: Sequence[int]) -> Tensor:
        size = int(torch.Size(shape).numel())
        if len(left) < size:
            raise AssertionError(f"{size} random numbers are drawn and {len(left)} are left of those that the case gives")
        taken = [left.pop(0) for _ in range(size)]
        return torch.tensor(taken, dtype=torch.float64).reshape(tuple(shape))

    return draw


def wrong(case: MergeCase, tolerance: float) -> str:
    """What differs from the case, as one sentence; "" if nothing does."""
    tensors = [torch.tensor(numbers, dtype=torch.float64) for numbers in case.tensors]
    base = None if case.base is None else torch.tensor(case.base, dtype=torch.float64)
    kept = None if base is None else base.clone()
    method: Any = case.method
    more = [[None if numbers is None else torch.tensor(numbers, dtype=torch.float64) for numbers in case.known]] if case.known else []
    found, expected = method(base, tensors, given(case.uniform), *more), torch.tensor(case.expected, dtype=torch.float64)
    if found.shape != expected.shape or not bool(((found - expected).abs() <= tolerance * expected.abs().clamp(min=1)).all()):
        return f"gives {found.tolist()}, worked out as {expected.tolist()}"
    if kept is not None and base is not None and not torch.equal(base, kept):
        return "the base was written over"
    return ""
