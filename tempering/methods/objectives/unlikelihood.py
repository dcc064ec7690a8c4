"""Unlikelihood training on tokens: what an answer has said before is made less likely as it is learned, so that the model repeats itself less.

    loss_t = - log p(y_t | y_<t) - alpha * sum_{c in C_t} log(1 - p(c | y_<t)),   C_t = {y_1, ..., y_t-1} without y_t

Welleck et al. 2019, arXiv 1908.04319, equations 4 and 5; alpha = 1. Candidates are earlier scored tokens of the same sequence, each once: a chat
template's tokens and the prompt's words are none. 1 - p is taken as at least 1e-5. It needs the logits of all scored tokens of a micro-batch at once
(a float32 per token and vocabulary entry): with a large vocabulary lower `--micro-tokens`. For negative answers see `sequence_unlikelihood`.
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
from tempering.methods.objectives.nll import NLL
from tempering.types import Context, Parts, Signals

FAMILY = "tokens"


@dataclass(frozen=True)
class Unlikelihood(NLL):
    """Cross-entropy plus the unlikelihood of the answer's earlier tokens."""

    alpha: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the unlikelihood; 0 is plain cross-entropy."""

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {self.part: frozenset({"logits"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        batch = parts[self.part]
        scored_N = (batch.weight_T != 0).nonzero().squeeze(-1)
        ids_N, segment_N = batch.ids_T[scored_N], batch.segment_T[scored_N]
        logp_NN = signals[self.part]["logits"][scored_N].log_softmax(-1)[:, ids_N]
        equal_NN = ids_N[:, None] == ids_N[None]
        before_NN = (segment_N[:, None] == segment_N[None]).tril(-1)
        first_N = ~(before_NN & equal_NN).any(1)
        unlikely_NN = torch.log((-torch.expm1(logp_NN)).clamp(min=1e-5))
        penalty_N = torch.where(before_NN & ~equal_NN & first_N, unlikely_NN, 0.0).sum(1)
        loss_N = -logp_NN.diagonal() - self.alpha * penalty_N
        return torch.zeros(batch.num_tokens, dtype=loss_N.dtype, device=loss_N.device).index_copy(0, scored_N, loss_N)


def _row(**p: float) -> list[float]:
    """Log-probs over a vocabulary of ten tokens; those not named share what is left."""
    rest = (1 - sum(p.values())) / (10 - len(p))
    return [math.log(p.get(f"t{v}", rest)) for v in range(10)]


_ANY = _row()
# In hand-worked cases the tokens are 3, 4, ..., 9, 3, 4, ...: those of the first segment 3, 4, 5, of the second 6, 7, 8, 9, 3, 4, 5, 6, 7.
CASES = (
    Case(
        "each earlier token of the same answer once, not the target, not what is not scored",
        Unlikelihood(alpha=0.5),
        {
            "train": {
                "logits": [
                    [_ANY, _row(t4=0.5), _row(t5=0.25, t4=0.5, t3=0.125)],
                    [_row(t6=0.5), _ANY, _ANY, _row(t9=0.2, t6=0.4), _ANY, _ANY, _ANY, _row(t6=0.3, t9=0.6), _row(t7=0.1, t6=0.2, t9=0.3)],
                ]
            }
        },
        weights={"train": [[0, 1, 1], [1, 0, 0, 1, 0, 0, 0, 2, 1]]},
        loss=-(
            math.log(0.5)
            + (math.log(0.25) + 0.5 * math.log(0.5))
            + math.log(0.5)
            + (math.log(0.2) + 0.5 * math.log(0.6))
            + 2 * (math.log(0.3) + 0.5 * math.log(0.4))
            + (math.log(0.1) + 0.5 * (math.log(0.8) + math.log(0.7)))
        )
        / 7,
    ),
    Case(
        "a candidate that is all but certain costs log 1e-5 and has no slope there",
        Unlikelihood(),
        {"train": {"logits": [[_ANY, [0, 0, 0, 30, 0, 0, 0, 0, 0, 0]], [_row(t5=0.5)]]}},
        loss=(math.log(10) + math.log(math.exp(30) + 9) + 5 * math.log(10) + math.log(2)) / 3,
        gradient={"train/logits": [[[0.1 / 3] * 3 + [-0.3] + [0.1 / 3] * 6, [0, 0, 0, 1 / 3, -1 / 3, 0, 0, 0, 0, 0]],
                                   [[0.5 / 9 / 3] * 5 + [-0.5 / 3] + [0.5 / 9 / 3] * 4]]},
    ),
)  # fmt: skip
