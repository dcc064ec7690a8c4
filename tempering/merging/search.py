"""Merges that are chosen by what they give on held rows: which models go in, and with which settings.

Neither knows what a merge is: `greedy` is handed a function of the models that go in, `search` one of numbers, and both look for where it is least.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass


class _Spent(Exception):
    """The budget is."""


@dataclass(frozen=True)
class Tried:
    """One merge that was measured."""

    what: tuple[str, ...] | tuple[float, ...]
    """The models that went in, or the settings."""
    loss: float


def greedy(models: Sequence[str], loss: Callable[[tuple[str, ...]], float]) -> tuple[Tried, ...]:
    """A greedy soup: models by their own loss, the best first; each goes in where the merge of those that are in and it is no worse than without it.

    Wortsman et al. 2022, arXiv 2203.05482, recipe 1. So on the rows that are looked at the result is never worse than the best model.

    Args:
        loss: of a merge of these models; of one, of the model itself.
    Returns:
        All that was tried, in order; the last of the least loss is the soup.
    """
    tried = [Tried((model,), loss((model,))) for model in models]
    best, *others = sorted(tried, key=lambda one: one.loss)
    for other in others:
        wider = Tried((*best.what, *other.what), loss((*best.what, *other.what)))  # type: ignore[arg-type]
        tried.append(wider)
        best = wider if wider.loss <= best.loss else best
    return tuple(tried)


def search(start: Sequence[float], low: float, high: float, loss: Callable[[tuple[float, ...]], float], budget: int) -> tuple[Tried, ...]:
    """Settings by Nelder and Mead's simplex between bounds: no more merges than `budget`, the first of which is the start.

    Args:
        start: settings to begin with; the first simplex goes from there half the way to the farther bound, one setting at a time.
    Returns:
        All that was tried, in order.
    """
    from scipy.optimize import minimize

    tried: dict[tuple[float, ...], float] = {}

    def measured(values: Sequence[float]) -> float:
        what = tuple(float(value) for value in values)
        if what not in tried:
            if len(tried) == budget:
                raise _Spent
            tried[what] = loss(what)
        return tried[what]

    simplex = [list(start)]
    for i, value in enumerate(start):
        simplex.append([*start[:i], (value + (high if high - value >= value - low else low)) / 2, *start[i + 1 :]])
    with suppress(_Spent):
        minimize(measured, simplex[0], method="Nelder-Mead", bounds=[(low, high)] * len(start), options={"initial_simplex": simplex, "xatol": 1e-3})
    return tuple(Tried(what, value) for what, value in tried.items())
