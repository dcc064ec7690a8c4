"""IFT: cross-entropy in which the model half reads its own guesses, and a token counts for the losses that follow from it.

    e_t    = (1 - lambda) E[y_t] + lambda E[argmax p(. | y_<t)]                       answer tokens alone; the guess without gradient
    l_t    = - log p(y_t | e_<t)
    w_t    = D_t / mean(D),   D_t = sum_{k >= t} gamma^(k - t) l_k
    loss   = mean over answers of mean_t w_t l_t

Hua et al. 2024, arXiv 2405.11870 (S181): "temporal residual connection" and "relation propagation"; lambda = 0.2 and gamma = 0.95 are those of the
released code, read there. gamma = 0 means w = 1, as there; the limit gamma -> 0 (w_t proportional to a token's own loss) is another loss. As released
the weights carry gradient, which pushes down the probability of tokens that are surer than the average; `stop` takes them as numbers. Unlike there
the embeddings mixed are the model's own at each step, not a frozen copy of the first ones.
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
from tempering.reduce import discounted, segment_mean
from tempering.types import Context, Norm, Parts, Signals

FAMILY = "tokens"
CATALOGUE = ("S181",)
PAPER = {"optimizer.lr": "5e-7, all weights of Mistral-7B (released code, commands)"}


@dataclass(frozen=True)
class IFT(NLL):
    """Cross-entropy on inputs mixed with the model's own guesses, weighed by the losses to come."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.2
    """lambda, of the guess in an answer token's input embedding; 0 reads the given tokens, in one pass."""
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.95
    """How far ahead a token's weight looks; 0 gives all tokens the same."""
    stop: bool = False
    """Take the weights as numbers, without gradient."""
    norm: Norm = "segment_mean"
    """What the sum is divided by."""

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {self.part: frozenset({self._logp})}

    @property
    def _logp(self) -> str:
        return f"mixed.{self.share}.logp" if self.share else "logp"

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        batch = parts[self.part]
        loss_T = torch.where(batch.weight_T != 0, -signals[self.part][self._logp], 0.0)
        if self.gamma == 0:
            return loss_T
        ahead_T = discounted(loss_T, batch, self.gamma)
        ahead_T = ahead_T.detach() if self.stop else ahead_T
        # Clamped for an answer without loss, which has nothing to weigh.
        return loss_T * ahead_T / segment_mean(ahead_T, batch).clamp(min=1e-20)[batch.segment_T]


# gamma = 1/2. Answer 1: losses 1, 2, 4 with weights 1, 1, 1/2: D = 1 + 1 + 1/2 = 2.5, 2 + 1 = 3, 2; mean D = (2.5 + 3 + 1) / 2.5 = 2.6.
# Answer 2: losses 3, 1: D = 3.5, 1; mean 2.25. Sums of weight * D * loss: 2.5 + 6 + 4 = 12.5 and 10.5 + 1 = 11.5.
_LOGPS = [[math.nan, -1, -2, -4], [-3, -1], [0, 0]]
_WEIGHTS = {"train": [[0, 1, 1, 0.5], [1, 1], [1, 1]]}
_LOSS = (12.5 / 2.6 / 2.5 + 11.5 / 2.25 / 2) / 3


def _slopes(loss: list[float], d: list[float], w: list[float], through: bool) -> list[float]:
    """d loss / d logp of one of three answers, gamma 1/2: with N = sum w D l and M = sum w D the loss is N / M."""
    n, m = sum(a * b * c for a, b, c in zip(w, d, loss, strict=True)), sum(a * b for a, b in zip(w, d, strict=True))
    own = [a * b / m for a, b in zip(w, d, strict=True)]
    if not through:
        return [-x / 3 for x in own]
    # dD_t / dl_k = gamma^(k - t) w_k for t <= k.
    in_n = [w[k] * sum(0.5 ** (k - t) * w[t] * loss[t] for t in range(k + 1)) / m for k in range(len(loss))]
    in_m = [w[k] * sum(0.5 ** (k - t) * w[t] for t in range(k + 1)) * n / m**2 for k in range(len(loss))]
    return [-(x + y - z) / 3 for x, y, z in zip(own, in_n, in_m, strict=True)]


def _both(through: bool) -> list[list[float]]:
    return [[0, *_slopes([1, 2, 4], [2.5, 3, 2], [1, 1, 0.5], through)], _slopes([3, 1], [3.5, 1], [1, 1], through), [0, 0]]


CASES = (
    Case(
        "as released: the weights carry gradient; an answer without loss counts in the mean",
        IFT(gamma=0.5),
        {"train": {"mixed.0.2.logp": _LOGPS}},
        weights=_WEIGHTS,
        loss=_LOSS,
        gradient={"train/mixed.0.2.logp": _both(through=True)},
    ),
    Case(
        "weights as numbers, on the given tokens",
        IFT(share=0, gamma=0.5, stop=True),
        {"train": {"logp": _LOGPS}},
        weights=_WEIGHTS,
        loss=_LOSS,
        gradient={"train/logp": _both(through=False)},
    ),
    Case(
        "gamma 0: the mean cross-entropy of each answer",
        IFT(share=0, gamma=0),
        {"train": {"logp": _LOGPS}},
        weights=_WEIGHTS,
        loss=(5 / 2.5 + 4 / 2) / 3,
    ),
)
EQUIVALENT = {"__call__:constant:2": "what stands outside the mask is any number; it only must not be NaN"}
