"""Unlikelihood training on sequences: tokens of answers marked undesirable are made less likely, those of desirable ones more.

    loss = - (1/n+) sum_{t of desirable answers} log p_t - weight * (1/n-) sum_{t lowered} log(1 - p_t)

Welleck et al. 2019, arXiv 1908.04319, equation 7. Lowered are all tokens of undesirable answers, or with `ngram` = n, as in the paper (n = 4, on
continuations that the model wrote), those that lie in an n-gram which stood before in the same answer. n+ and n- count what is learned and what is
lowered over the whole step, so that neither term depends on how many of the other there are. 1 - p is taken as at least 1e-5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.types import Batch, Context, Objective, Parts, Signals

FAMILY = "unpaired"


@dataclass(frozen=True)
class SequenceUnlikelihood(Objective):
    """Likelihood of desirable answers, unlikelihood of undesirable ones."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the unlikelihood."""
    ngram: Annotated[int, Field(ge=0)] = 0
    """Lower only repeated n-grams of this size; 0 lowers every token of an undesirable answer."""
    norm = 1.0
    part = "train"
    couples = "sums"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"train": frozenset({"logp", "label"})}

    def _kinds(self, parts: Parts, signals: Signals) -> tuple[Tensor, Tensor]:
        """Which tokens are learned and which are lowered [T]."""
        batch = parts["train"]
        good_T = (signals["train"]["label"] > 0)[batch.segment_T]
        return good_T, ~good_T & _repeated(batch, self.ngram) if self.ngram else ~good_T

    def stats(self, parts: Parts, signals: Signals) -> Mapping[str, Tensor]:
        """Weights of what is learned and of what is lowered."""
        weight_T = parts["train"].weight_T
        return dict(zip(("learned", "lowered"), (torch.where(kind_T, weight_T, 0.0).sum() for kind_T in self._kinds(parts, signals)), strict=True))

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        logp_T = signals["train"]["logp"]
        good_T, lowered_T = self._kinds(parts, signals)
        learned, lowered = (torch.where(ctx.stats[name] == 0, 1.0, ctx.stats[name]) for name in ("learned", "lowered"))
        unlikely_T = torch.log((-torch.expm1(logp_T)).clamp(min=1e-5)) / lowered
        return torch.where(good_T, -logp_T / learned, torch.where(lowered_T, -self.weight * unlikely_T, 0.0))


def _repeated(batch: Batch, n: int) -> Tensor:
    """Scored tokens in an n-gram that stood before, wholly, among the scored tokens of the same segment: bool [T]."""
    scored_N = (batch.weight_T != 0).nonzero().squeeze(-1)
    ids_N, segment_N = batch.ids_T[scored_N], batch.segment_T[scored_N]
    same_NN = (ids_N[:, None] == ids_N[None]) & (segment_N[:, None] == segment_N[None])
    size = len(ids_N)
    same_NN = F.pad(same_NN, (0, n, 0, n))
    gram_N = torch.stack([same_NN[k : k + size, k : k + size] for k in range(n)]).all(0).tril(-n).any(1)
    # No n-gram begins among the last n - 1, so nothing rolls round.
    found_N = torch.stack([gram_N.roll(k) for k in range(n)]).any(0)
    return torch.zeros_like(batch.ids_T, dtype=torch.bool).index_copy(0, scored_N, found_N)


_P = {p: math.log(p) for p in (0.1, 0.2, 0.25, 0.4, 0.5, 0.8)}

CASES = (
    Case(
        "two desirable tokens and weights 0.5 and 2 of undesirable ones, each kind with a divisor of its own",
        SequenceUnlikelihood(weight=2.0),
        {"train": {"logp": [[-5, _P[0.5], _P[0.25]], [_P[0.2], _P[0.8]]], "label": [1, 0]}},
        weights={"train": [[0, 1, 1], [0.5, 2]]},
        loss=-(math.log(0.5) + math.log(0.25)) / 2 - 2 * (0.5 * math.log(0.8) + 2 * math.log(0.2)) / 2.5,
        gradient={"train/logp": [[0, -0.5, -0.5], [2 * 0.5 / 2.5 * 0.2 / 0.8, 2 * 2 / 2.5 * 0.8 / 0.2]]},
    ),
    Case(
        "no desirable answer, and a token that is certain: log 1e-5, without a slope",
        SequenceUnlikelihood(),
        {"train": {"logp": [[0.0], [_P[0.5]]], "label": [0, 0]}},
        loss=(5 * math.log(10) + math.log(2)) / 2,
        gradient={"train/logp": [[0], [0.5]]},
    ),
    Case(
        "no undesirable answer",
        SequenceUnlikelihood(),
        {"train": {"logp": [[-1.0], [-2.0, -4.0]], "label": [1, 1]}},
        loss=7 / 3,
    ),
    # Scored tokens: 3 4 5 6 5 6 of the first answer, where "5 6" comes again, and 7 7 7 of the second, where "7 7" only overlaps itself.
    Case(
        "only the second time of a pair of tokens is lowered",
        SequenceUnlikelihood(ngram=2),
        {"train": {"logp": [[_P[0.1]] * 9 + [_P[0.4], _P[0.5]], [_P[0.1]] * 15, [-3.0]], "label": [0, 0, 1]}},
        weights={"train": [[1] * 4 + [0] * 5 + [1, 3], [1, *[0] * 6, 1, *[0] * 6, 1], [1]]},
        loss=3 - (math.log(0.6) + 3 * math.log(0.5)) / 4,
    ),
)
EQUIVALENT = {"__call__:constant:2": "keeps a division by 0 out of the gradient where no token is divided"}
