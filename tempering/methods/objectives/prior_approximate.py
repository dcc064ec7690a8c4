"""The prior-approximate loss: a router learns which experts came nearest to what the dense MLP said of a token.

    loss_t = - (1 / (L k)) sum_l sum_(i in P_l(t)) log softmax(W_r x_l)_i, P_l(t) = the k experts with the least || E_i(x) - (k / N) FFN(x) ||^2

Zhao et al. 2024 (FactorLLM), beside the likelihood of the text, and there with a small term for balance, which is left out here. P is a column of the
rows, "prior.L" [T, k] for each router, found once on the dense model (recipe `factor_llm`); the paper asks the experts as they are by then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tempering.cases import Case
from tempering.types import Context, Norm, Objective, Parts, Signals

CATALOGUE = ("S107",)


@dataclass(frozen=True)
class PriorApproximate(Objective):
    """Cross-entropy of every router's choice, averaged over the routers."""

    layers: int
    """How many routers there are."""
    norm: Norm = "tokens"
    """What the sum is divided by."""

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"train": frozenset(f"{name}.{layer}" for layer in range(self.layers) for name in ("router", "prior"))}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        mask_T1, train = (parts["train"].weight_T != 0)[:, None], signals["train"]
        chosen_LT = [_chosen(train[f"router.{i}"], torch.where(mask_T1, train[f"prior.{i}"], 0)) for i in range(self.layers)]
        return -torch.stack(chosen_LT).sum(0) / self.layers


def _chosen(router_TE: Tensor, prior_TK: Tensor) -> Tensor:
    """The mean log-chance of the named experts at each token."""
    return router_TE.log_softmax(-1).gather(1, prior_TK.long()).sum(-1) / prior_TK.shape[1]


_LN2, _LN3, _LN4 = math.log(2), math.log(3), math.log(4)
_BOTH = (_LN4 + math.log(4 / 3)) / 2

CASES = (
    Case(
        "two routers of two experts and one choice; tokens of unequal weight, one without",
        PriorApproximate(layers=2),
        {
            "train": {
                "router.0": [[[0.0, _LN3], [_LN3, 0.0], [9.0, 0.0]], [[0.0, 0.0]]],
                "router.1": [[[_LN3, 0.0], [0.0, 0.0], [9.0, 0.0]], [[0.0, _LN3]]],
                "prior.0": [[[1], [1], [1]], [[1]]],
                "prior.1": [[[1], [0], [1]], [[1]]],
            }
        },
        weights={"train": [[1.0, 2.0, 0.0], [1.0]]},
        loss=((math.log(4 / 3) + _LN4) / 2 + 2 * (_LN4 + _LN2) / 2 + (_LN2 + math.log(4 / 3)) / 2) / 4,
        gradient={"train/router.0": [[[0.25 / 8, -0.25 / 8], [0.75 / 4, -0.75 / 4], [0, 0]], [[0.5 / 8, -0.5 / 8]]]},
    ),
    Case(
        "one router that takes both of two; by rows",
        PriorApproximate(layers=1, norm="segment_mean"),
        {"train": {"router.0": [[[0.0, _LN3], [0.0, 0.0]], [[_LN3, 0.0]]], "prior.0": [[[1, 0], [0, 1]], [[0, 1]]]}},
        loss=((_BOTH + _LN2) / 2 + _BOTH) / 2,
    ),
)

EQUIVALENT = {
    "__call__:drop-mask:1": "tokens without weight count nothing; the mask keeps what stands there from being taken for an expert",
    "__call__:constant:2": "the expert that is read at tokens without weight counts nothing",
}
