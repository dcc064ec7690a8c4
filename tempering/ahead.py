"""Steps within a step: a gradient that is taken at other weights than those that it moves.

`fit(ahead=(rate, objective))`: the weights stand `rate` times that objective's gradient uphill while the gradient is taken (MetaRM). `fit(ahead=Meta(
rate, inner))`: they stand `rate` times downhill of the inner objective, which is a part of what is minimised, itself and through the step:

    theta' = theta - rate g(theta),   minimise inner(theta) + outer(theta'),   g = grad inner, H its Hessian
    gradient = g(theta) + (I - rate H(theta)) grad outer(theta')        to first order in the rate without H: g(theta) + grad outer(theta')

The product with the Hessian is a central difference of two more gradients of the inner objective, 0.01 apart from theta along the unit vector of grad
outer (the step of DARTS, Liu et al. 2019, arXiv 1806.09055, section 2.3): exact up to rounding where the inner loss is quadratic, and free of second
derivatives, which fused kernels do not have. Where dropout is drawn, each gradient has its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

APART = 0.01
"""How far from the weights, in all, the two gradients stand whose difference gives the product with the Hessian."""

Backward = Callable[[Any, bool], float]
"""(objective, whether it is logged) -> its loss over the step; its gradients are added to those that are there."""


@dataclass(frozen=True)
class Meta:
    """An objective that is minimised itself, and whose step the outer objective is judged after."""

    rate: float
    """Size of the inner step."""
    inner: Any
    """An `Objective` of the same parts."""
    second: bool = True
    """With the product with the inner Hessian; without it the gradient is of first order."""


@contextmanager
def standing(ahead: tuple[float, Any] | Meta | None, params: Sequence[Tensor], backward: Backward) -> Iterator[list[float]]:
    """Inside it the weights stand ahead; after it where they stood, to the bit, with all gradients there. What it yields holds, after it, losses that
    belong to the step beside the outer one.

    Args:
        params: that train.
    """
    more: list[float] = []
    if ahead is None:
        yield more
        return
    meta = ahead if isinstance(ahead, Meta) else None
    rate, objective = (-meta.rate, meta.inner) if meta else ahead  # type: ignore[misc]
    loss = backward(objective, True)
    with torch.no_grad():
        kept, up = [p.detach().clone() for p in params], taken(params)
        for p, g in zip(params, up, strict=True):
            if g is not None:
                p.add_(g, alpha=rate)
        try:
            with torch.enable_grad():
                yield more
        finally:
            for p, was in zip(params, kept, strict=True):
                p.copy_(was)
        if meta is None:
            return
        more.append(loss)
        outer = taken(params)
        if meta.second and meta.rate:
            curved = product(meta.inner, params, outer, backward)
            outer = [v if v is None or h is None else v - meta.rate * h for v, h in zip(outer, curved, strict=True)]
        for p, g, v in zip(params, up, outer, strict=True):
            p.grad = g if v is None else v if g is None else g + v


def taken(params: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradients, which are gone from the parameters then."""
    found = [p.grad for p in params]
    for p in params:
        p.grad = None
    return found


def product(inner: Any, params: Sequence[Tensor], vector: Sequence[Tensor | None], backward: Backward) -> list[Tensor | None]:
    """H v of the inner objective at the weights as they are; they are put back to the bit."""
    length = math.sqrt(sum(float((v.float() ** 2).sum()) for v in vector if v is not None))
    if not length:
        return [None] * len(params)
    step, sides = APART / length, []
    kept = [p.detach().clone() for p in params]
    for sign in (1, -1):
        for p, was, v in zip(params, kept, vector, strict=True):
            if v is not None:
                p.copy_(was).add_(v, alpha=sign * step)
        with torch.enable_grad():
            backward(inner, False)
        sides.append(taken(params))
    for p, was in zip(params, kept, strict=True):
        p.copy_(was)
    return [None if a is None or b is None else (a - b) / (2 * step) for a, b in zip(*sides, strict=True)]
