"""A bound on another loss, held by a dual variable: what primal-dual methods share.

    loss = lambda * (L - bound),   lambda <- max(0, lambda + rate * (L - bound)) after each step

L is the mean of the inner loss over the step's scored tokens, so the weight grows while the bound is broken and falls while it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tempering.reduce import masked
from tempering.types import Context, Norm, Objective, Parts, Signals


@dataclass(frozen=True)
class Bounded(Objective):
    """A loss above a bound, times a dual variable: "now" in this step, "next" in the one to come."""

    inner: Objective
    bound: float
    rate: float
    start: float
    couples = "sums"
    per = "token"

    @property
    def part(self) -> str:  # type: ignore[override]
        return self.inner.part

    @property
    def norm(self) -> Norm:  # type: ignore[override]
        return self.inner.norm

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return self.inner.needs

    def stats(self, parts: Parts, signals: Signals) -> Mapping[str, Tensor]:
        batch = parts["retain"]
        loss_T = self.inner(parts, signals, Context(0, {}, lambda **values: None))
        return {"loss": masked(loss_T, batch).sum().double(), "tokens": batch.weight_T.sum().double()}

    def initial(self) -> Mapping[str, Tensor]:
        return dict.fromkeys(("now", "next"), torch.tensor([self.start], dtype=torch.float64))

    def advance(self, state: Mapping[str, Tensor], stats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        excess = (stats["loss"] - self.bound * stats["tokens"]) / stats["tokens"].clamp(min=1e-9)
        return {"now": state["next"], "next": (state["next"] + self.rate * excess).clamp(min=0)}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        loss_T = self.inner(parts, signals, ctx)
        weight = ctx.state["now"].to(loss_T)
        ctx.log(retain_weight=weight, next_retain_weight=ctx.state["next"])
        return weight * (loss_T - self.bound)


EQUIVALENT = {
    "stats:constant:1": "retain losses do not know the step",
    "advance:min-max:1": "for a step without any scored retain token, after which the weight is as it was (tests/unit/test_forget_losses.py)",
}
