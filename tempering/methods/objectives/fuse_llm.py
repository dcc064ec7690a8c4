"""FuseLLM: a model learns the text, and beside it a distribution that several other models' were fused into.

    loss_t = - lambda log q(y_t) - (1 - lambda) sum_v p_fused(v) log q(v)

Wan et al. 2024, arXiv 2401.10491, eq. 6 and 7 (S066), lambda = 0.9. The fused distributions are columns that the recipe `fuse_llm` makes before
training, of the `k` likeliest tokens, renormalised over them; that of a token which no model could say anything about is the token itself.
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
from tempering.types import Context, Norm, Objective, Parts, Signals

CATALOGUE = ("S066",)


@dataclass(frozen=True)
class FuseLLM(Objective):
    """Cross-entropy to the text and to a fused distribution."""

    k: Annotated[int, Field(ge=1)] = 10
    """How many tokens of a distribution are kept (10 in the released code)."""
    lambda_: Annotated[float, Field(ge=0, le=1)] = 0.9
    """What the text counts."""
    norm: Norm = "tokens"
    """What the sum is divided by."""
    by_token = True

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"train": frozenset({"logp", "logits", f"fused.top_logp.{self.k}", f"fused.top_id.{self.k}"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        train = signals["train"]
        mask_T1 = parts["train"].weight_T[:, None] != 0
        fused_TK = train[f"fused.top_logp.{self.k}"].softmax(-1)
        student_TK = train["logits"].log_softmax(-1).gather(-1, torch.where(mask_T1, train[f"fused.top_id.{self.k}"], 0).long())
        return -self.lambda_ * train["logp"] - (1 - self.lambda_) * (fused_TK * student_TK).sum(-1)


def _logs(*chances: float) -> list[float]:
    return [math.log(p) for p in chances]


# A student of odds 1:1:2:4, one that finds four tokens alike, and a token without weight.
_GIVEN = {
    "logits": [[_logs(1, 1, 2, 4), [0.0] * 4, [5.0, 0.0, 0.0, 0.0]], [_logs(4, 2, 1, 1)]],
    "logp": [[*_logs(1 / 4, 1 / 4), -9.0], _logs(1 / 2)],
    "fused.top_logp.2": [[_logs(0.6, 0.3), _logs(0.5, 0.5), _logs(0.9, 0.1)], [[0.0, -1e4]]],
    "fused.top_id.2": [[[3.0, 2.0], [0.0, 1.0], [-1.0, 9.0]], [[1.0, 1.0]]],
}
_TEXT = (math.log(4), math.log(4), math.log(2))
_FUSED = (2 / 3 * math.log(2) + 1 / 3 * math.log(4), math.log(4), math.log(4))

CASES = (
    Case(
        "two tokens kept, renormalised; the last knows one token alone",
        FuseLLM(k=2, lambda_=0.75),
        {"train": _GIVEN},
        weights={"train": [[1.0, 0.5, 0.0], [2.0]]},
        loss=sum(w * (0.75 * a + 0.25 * b) for w, a, b in zip((1.0, 0.5, 2.0), _TEXT, _FUSED, strict=True)) / 3.5,
        # (1 - lambda) (q - p) on the logits, and -lambda on the log-prob.
        gradient={
            "train/logits": [
                [
                    [0.25 / 8 / 3.5, 0.25 / 8 / 3.5, 0.25 * (1 / 4 - 1 / 3) / 3.5, 0.25 * (1 / 2 - 2 / 3) / 3.5],
                    [0.125 * -0.25 / 3.5, 0.125 * -0.25 / 3.5, 0.125 * 0.25 / 3.5, 0.125 * 0.25 / 3.5],
                    [0.0] * 4,
                ],
                [[0.5 * 0.5 / 3.5, 0.5 * -0.75 / 3.5, 0.5 / 8 / 3.5, 0.5 / 8 / 3.5]],
            ],
            "train/logp": [[-0.75 / 3.5, -0.375 / 3.5, 0.0], [-1.5 / 3.5]],
        },
    ),
    Case("all on the text", FuseLLM(k=2, lambda_=1.0), {"train": _GIVEN}, weights={"train": [[1.0, 1.0, 0.0], [1.0]]}, loss=sum(_TEXT) / 3),
)
EQUIVALENT = {"__call__:constant:2": "which token is looked up where none is scored does not matter"}
