"""Iterative data smoothing: a pair's label moves towards what the reward model makes of it, so that pairs seen rarely are not learned by heart.

    loss = - y log sigmoid(d) - (1 - y) log sigmoid(-d),   y <- (1 - beta) y + beta sigmoid(d) after each visit,   d = r(y_w | x) - r(y_l | x)

Zhu et al. 2024, arXiv 2401.16335, algorithm 1. Labels start at 1 and are the objective's state, one for each row, found by a column "index" of the
chosen answers. The paper updates all labels after an epoch; here a row's label takes the reward that its visit computed anyway, before that visit's
step, and counts from the next visit on. An index below 0 (held-out rows) keeps the label 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._paired import softplus
from tempering.methods.objectives.bradley_terry import BradleyTerry
from tempering.reduce import last, segment_weight
from tempering.types import Context, Parts, Signals

FAMILY = "reward"
CATALOGUE = ("S176",)


@dataclass(frozen=True)
class IDS(BradleyTerry):
    """Bradley-Terry with labels that are updated."""

    rows: Annotated[int, Field(ge=1)] = 1
    """How many rows have a label: one more than the largest index."""
    beta: Annotated[float, Field(ge=0, le=1)] = 0.7
    """How far a label moves at a visit; 0 is Bradley-Terry."""
    couples = "gather"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {side: names | ({"index"} if side == "chosen" else set()) for side, names in super().needs.items()}

    def stats(self, parts: Parts, signals: Signals) -> Mapping[str, Tensor]:
        chosen_S, rejected_S = (last(signals[side]["reward"], parts[side]) for side in ("chosen", "rejected"))
        index_S = signals["chosen"]["index"]
        scored_S = segment_weight(parts["chosen"]) != 0
        return {"won": torch.sigmoid(chosen_S - rejected_S), "index": torch.where(scored_S, index_S, -torch.ones_like(index_S))}

    def initial(self) -> Mapping[str, Tensor]:
        # "label" is what this step's losses use, taken from "next", what a row's next visit will.
        return {name: torch.ones(self.rows, dtype=torch.float64) for name in ("label", "next")}

    def advance(self, state: Mapping[str, Tensor], stats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        label_N, index_S = state["next"], stats["index"].long()
        seen_S = index_S >= 0
        # A row that comes twice in a step moves once, by the mean of its visits.
        won_N = label_N.scatter_reduce(0, index_S[seen_S], stats["won"][seen_S].to(label_N), "mean", include_self=False)
        visited_N = torch.zeros_like(label_N).index_fill(0, index_S[seen_S], self.beta)
        return {"label": label_N, "next": label_N + visited_N * (won_N - label_N)}

    def label(self, columns: Mapping[str, Tensor], ctx: Context) -> Tensor:
        """What earlier visits made of the labels [S]."""
        index_S = columns["index"].long()
        kept_S, next_S = (ctx.state[name][index_S.clamp(min=0)] for name in ("label", "next"))
        label_S, next_S = (torch.where(index_S >= 0, x_S, 1.0).float() for x_S in (kept_S, next_S))
        ctx.log(label=label_S, next_label=next_S)
        return label_S


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


_STATE = {"label": [0.0, 0.5, 0.3, 0.1], "next": [0.2, 1.0, 0.9, 0.6]}

CASES = (
    Case(
        "the first visit learns labels of 1 and moves those of rows 2 and 0",
        IDS(rows=4, beta=0.3),
        {"chosen": {"reward": [[9.0, 1.5], [-0.5]], "index": [2, 0]}, "rejected": {"reward": [[0.25], [4.0, 1.0]]}},
        loss=(softplus(-1.25) + softplus(1.5)) / 2,
        logs={"next_label": (0.7 + 0.3 * _sigmoid(1.25) + 0.7 + 0.3 * _sigmoid(-1.5)) / 2},
    ),
    Case(
        "a later visit learns labels of 0.9 and 0.2, the gradient is sigmoid(d) less them; two held-out rows have the label 1",
        IDS(rows=4, beta=0.3),
        {
            "chosen": {"reward": [[9.0, 1.5], [-0.5], [0.0], [0.5]], "index": [2, 0, -1, -9]},
            "rejected": {"reward": [[0.25], [4.0, 1.0], [1.0], [0.7]]},
        },
        state=_STATE,
        loss=(0.9 * softplus(-1.25) + 0.1 * softplus(1.25) + 0.2 * softplus(1.5) + 0.8 * softplus(-1.5) + softplus(1.0) + softplus(0.2)) / 4,
        gradient={
            "chosen/reward": [
                [0, (_sigmoid(1.25) - 0.9) / 4],
                [(_sigmoid(-1.5) - 0.2) / 4],
                [-_sigmoid(1.0) / 4],
                [-_sigmoid(0.2) / 4],
            ]
        },
        logs={"next_label": (0.7 * 0.9 + 0.3 * _sigmoid(1.25) + 0.7 * 0.2 + 0.3 * _sigmoid(-1.5) + 2) / 4},
    ),
    Case(
        "a row whose chosen answer is not scored is not visited, and one that comes twice moves by the mean",
        IDS(rows=4, beta=0.5),
        {"chosen": {"reward": [[1.0], [2.0], [0.5]], "index": [3, 1, 3]}, "rejected": {"reward": [[3.0], [1.0], [0.1]]}},
        weights={"chosen": [[1], [0], [1]]},
        groups={"chosen": [0, 1, 0], "rejected": [0, 1, 0]},
        state=_STATE,
        loss=(0.6 * softplus(2.0) + 0.4 * softplus(-2.0) + 0.6 * softplus(-0.4) + 0.4 * softplus(0.4)) / 2,
        logs={"next_label": (0.6 + 0.5 * (_sigmoid(-2.0) + _sigmoid(0.4)) + 1) / 3, "label": (0.6 + 1 + 0.6) / 3},
    ),
)
