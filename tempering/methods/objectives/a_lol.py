"""A-LoL: of answers that were written beforehand, learn those that earn more than the start model does itself, each by how much more.

    loss = - A w log p(y|x),   A = R(x, y) - V(x),   only where A > 0

    w = clip(p(y|x) / p_ref(y|x), 1 - eps, 1 + eps), without gradient     "answer"
        that ratio of each token by itself, clipped alike                 "token" (sequence in the paper)
        1                                                                 "free" (reference free)
        1, and beta (log p - log p_ref) is added                          "kl"

Baheti et al. 2023, "Improving Language Models with Advantage-based Offline Policy Gradients", arXiv 2305.14718. log p is the sum over the answer's
tokens, eps 0.9, V what the reference's own answers earn. Where p is p_ref the gradient is A times that of cross-entropy, in all of them. beta is not
checked against the paper. Rewards, V and the draw of rows by A: `recipes/offline.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.reduce import segment_sum
from tempering.types import Context, Objective, Parts, Signals

FAMILY = "offline"


@dataclass(frozen=True)
class ALoL(Objective):
    """Answers with an advantage above 0, weighed by it."""

    ratio: Literal["answer", "token", "free", "kl"] = "answer"
    """What else an answer is weighed by."""
    epsilon: Annotated[float, Field(ge=0, le=1)] = 0.9
    """How far a ratio is followed from 1."""
    beta: Annotated[float, Field(ge=0)] = 0.1
    """Of "kl": what a nat of log-ratio to the reference costs."""
    norm = "segments"
    per = "segment"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"train": frozenset({"logp", "advantage"} | (set() if self.ratio == "free" else {"reference.logp"}))}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        s, batch = signals["train"], parts["train"]
        logp_T, good_S = s["logp"], s["advantage"].clamp(min=0)
        if self.ratio == "free":
            return -good_S * segment_sum(logp_T, batch)
        moved_T = logp_T - s["reference.logp"]
        moved_S = segment_sum(moved_T, batch)
        ctx.log(moved=moved_S)
        if self.ratio == "kl":
            return torch.where(good_S > 0, self.beta * moved_S, 0.0) - good_S * segment_sum(logp_T, batch)
        if self.ratio == "token":
            return -good_S * segment_sum(self._held(moved_T) * logp_T, batch)
        return -good_S * self._held(moved_S) * segment_sum(logp_T, batch)

    def _held(self, log_ratio: Tensor) -> Tensor:
        return log_ratio.detach().exp().clamp(1 - self.epsilon, 1 + self.epsilon)


# Log-ratios to the reference: 0.2, -0.5 | 0.7, with half a weight | 0.6 | -3.
_EXAMPLE = {
    "train": {
        "logp": [[-1.0, -2.0], [-0.3, -8.0], [-0.5], [-4.0]],
        "reference.logp": [[-1.2, -1.5], [-1.0, -9.0], [-1.1], [-1.0]],
        "advantage": [0.5, 2.0, -1.0, 0.25],
    }
}
_HOW: Any = {"weights": {"train": [[1.0, 1.0], [0.5, 0.0], [1.0], [1.0]]}, "groups": {"train": [0, 0, 1, 1]}}
_MOVED = {"moved": (-0.3 + 0.35 + 0.6 - 3.0) / 4}
CASES = (
    Case(
        "an answer's ratio, clipped below at 0.1; a bad answer counts for nothing",
        ALoL(),
        _EXAMPLE,
        loss=(0.5 * math.exp(-0.3) * 3 + 2 * math.exp(0.35) * 0.15 + 0.25 * 0.1 * 4) / 4,
        gradient={"train/logp": [[-0.5 * math.exp(-0.3) / 4] * 2, [-2 * math.exp(0.35) * 0.5 / 4, 0], [0], [-0.25 * 0.1 / 4]]},
        logs=_MOVED,
        **_HOW,
    ),
    Case(
        "clipped above at 1.35 and below at 0.65",
        ALoL(epsilon=0.35),
        _EXAMPLE,
        loss=(0.5 * math.exp(-0.3) * 3 + 2 * 1.35 * 0.15 + 0.25 * 0.65 * 4) / 4,
        **_HOW,
    ),
    Case(
        "each token's ratio",
        ALoL("token"),
        _EXAMPLE,
        loss=(0.5 * (math.exp(0.2) + 2 * math.exp(-0.5)) + 2 * 0.5 * 0.3 * 1.9 + 0.25 * 0.1 * 4) / 4,
        **_HOW,
    ),
    Case("no ratio", ALoL("free"), _EXAMPLE, loss=(0.5 * 3 + 2 * 0.15 + 0.25 * 4) / 4, **_HOW),
    Case(
        "the divergence is added, of answers that count",
        ALoL("kl", beta=0.4),
        _EXAMPLE,
        loss=(0.5 * 3 + 2 * 0.15 + 0.25 * 4 + 0.4 * (-0.3 + 0.35 - 3.0)) / 4,
        gradient={"train/logp": [[(0.4 - 0.5) / 4] * 2, [(0.4 - 2) * 0.5 / 4, 0], [0], [(0.4 - 0.25) / 4]]},
        **_HOW,
    ),
)
