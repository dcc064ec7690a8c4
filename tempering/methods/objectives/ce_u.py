"""CE-U: cross-entropy unlearning, where the target is the model's own distribution without the token that is to be forgotten.

    q_t = softmax( z with z(y_t) = -inf ), without gradient;    loss_t = - sum_v q_t(v) log p(v | y_<t)

Yang 2025, arXiv 2503.01224. The gradient of the logits is p(y_t) at y_t and -p(y_t) p(v) / (1 - p(y_t)) elsewhere: largest where the token is
certain, gone where it is forgotten, the opposite of gradient ascent's. It is that of token unlikelihood, -log(1 - p(y_t)). No reference, no retain
rows. The first answer token is left out (a footnote on the paper's training settings), and the sum is divided by the tokens that are left.
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
from tempering.methods.objectives._forgetting import Forgetting, RetainLoss, row
from tempering.types import Batch, Context, Parts, Signals

FAMILY = "forget"
CONFUSED_WITH = {"unlikelihood": "is the same gradient written on probabilities", "gradient_ascent": "weighs all tokens alike and has no bound"}
PAPER = {"optimizer.lr": "1e-5 for all weights of a model of 1B or more on TOFU (as OpenUnlearning runs it)"}


@dataclass(frozen=True)
class CEU(Forgetting):
    """Cross-entropy to the model's own distribution without the answer's token."""

    skip_first: Annotated[int, Field(ge=0)] = 1
    """How many tokens at the start of an answer are left alone."""
    retain_loss: RetainLoss = "none"
    """The paper has no retain term."""
    norm = "tokens"
    per = "token"
    couples = "sums"

    @property
    def reads(self) -> Mapping[str, frozenset[str]]:
        return {"forget": frozenset({"logits"})}

    def stats(self, parts: Parts, signals: Signals) -> Mapping[str, Tensor]:
        batch = parts["forget"]
        return {"all": batch.weight_T.sum(), "left": batch.weight_T[self.later(batch)].sum()}

    def later(self, batch: Batch) -> Tensor:
        """Whether a token is scored and not among the first of its segment [T]."""
        scored_T = (batch.weight_T != 0).float()
        count_S = torch.zeros(batch.num_segments, device=scored_T.device).index_add(0, batch.segment_T, scored_T)
        before_S = count_S.cumsum(0) - count_S
        return scored_T.cumsum(0) - before_S[batch.segment_T] > self.skip_first

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        batch, z_TV = parts["forget"], signals["forget"]["logits"]
        target_TV = z_TV.detach().scatter(1, batch.ids_T.long()[:, None], -torch.inf).softmax(-1)
        loss_T = -(target_TV * z_TV.log_softmax(-1)).sum(-1)
        # The reduction divides by all tokens of the step.
        return torch.where(self.later(batch), loss_T, 0.0) * (ctx.stats["all"] / ctx.stats["left"].clamp(min=1e-6))


_LOGITS = [[row(t3=0.5), row(t4=0.5, t0=0.25)], [row(t5=0.1)], [row(t6=0.9), row(), [v + 3 for v in row(t8=0.75, t1=0.125)]]]
_SECOND = 0.5 * math.log(4) + 0.5 * math.log(32)
_LAST = 0.5 * math.log(8) + 0.5 * math.log(64)

CASES = (
    Case(
        "the first scored token of each answer is left out, and its weight from the divisor",
        CEU(),
        {"forget": {"logits": _LOGITS}},
        weights={"forget": [[1.0, 2.0], [1.0], [0.0, 1.0, 0.5]]},
        loss=(2 * _SECOND + 0.5 * _LAST) / 2.5,
        gradient={
            "forget/logits": [
                [[0.0] * 10, [0.8 * x for x in [-0.25, *[-1 / 32] * 3, 0.5, *[-1 / 32] * 5]]],
                [[0.0] * 10],
                [[0.0] * 10, [0.0] * 10, [0.2 * x for x in [-3 / 64, -0.375, *[-3 / 64] * 6, 0.75, -3 / 64]]],
            ]
        },
    ),
    Case("answers of one token alone: nothing is left", CEU(), {"forget": {"logits": [[row(t3=0.5)], [row()]]}}, loss=0.0),
    Case(
        "two left out",
        CEU(skip_first=2),
        {"forget": {"logits": _LOGITS}},
        loss=_LAST,
    ),
    Case(
        "none left out, beside other rows",
        CEU(skip_first=0, retain_loss="nll", weight=0.5, retain_weight=2.0),
        {"forget": {"logits": _LOGITS[:2]}, "retain": {"logp": [[-1.0, -3.0]]}},
        loss=0.5 * (math.log(18) + _SECOND + math.log(10)) / 3 + 4,
    ),
)
