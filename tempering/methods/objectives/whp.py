"""Who's Harry Potter: the model learns, on the forget text, what a model would say that does not know it.

    v_generic = v - alpha relu(v_reinforced - v)

v are the start model's logits, v_reinforced those of the "reinforced" model, which is the start trained further on the forget rows: tokens that it
prefers are what the text teaches. Eldan & Russinovich 2023 (S014, arXiv 2310.02238, section 2, equation 1; alpha = 5). The labels are the argmax of
v_generic (`labels="hard"`, the paper) or softmax(v_generic), to which the KL divergence is taken ("soft"): with alpha 0 that is 0 at the start.

Not here: the paper's second source of labels, the start model's predictions on text whose own names were replaced by a dictionary (`whp_causal`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._forgetting import Forgetting, RetainLoss
from tempering.types import Context, Norm, Parts, Signals

FAMILY = "forget"
CATALOGUE = ("S014",)
PAPER = {"optimizer.lr": "1e-6, batches of 8 by 16 accumulated, 120 steps (Llama-2-7B-chat); the reinforced model 3e-6, 3 epochs (section 4)"}


@dataclass(frozen=True)
class WHP(Forgetting):
    """Cross-entropy with, or divergence from, the generic prediction."""

    alpha: Annotated[float, Field(ge=0)] = 5.0
    """How far a token falls that the reinforced model prefers."""
    labels: Literal["hard", "soft"] = "hard"
    """The generic prediction's likeliest token, or its whole distribution."""
    norm: Norm = "tokens"
    """What the forget term is divided by."""
    retain_loss: RetainLoss = "none"
    """The paper has no retain term."""
    per = "token"
    learns = ("reinforced",)

    @property
    def reads(self) -> Mapping[str, frozenset[str]]:
        return {"forget": frozenset({"logits", "reference.logits", "reinforced.logits"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        of = signals["forget"]
        start_TV, log_p_TV = of["reference.logits"], of["logits"].log_softmax(-1)
        generic_TV = start_TV - self.alpha * (of["reinforced.logits"] - start_TV).relu()
        if self.labels == "hard":
            return -log_p_TV.gather(-1, generic_TV.argmax(-1, keepdim=True)).squeeze(-1)
        log_q_TV = generic_TV.log_softmax(-1)
        return (log_q_TV.exp() * (log_q_TV - log_p_TV)).sum(-1)


def _log_softmax(*logits: float) -> list[float]:
    total = math.log(sum(math.exp(x) for x in logits))
    return [x - total for x in logits]


def _kl(q: list[float], p: list[float]) -> float:
    return sum(math.exp(a) * (a - b) for a, b in zip(q, p, strict=True))


def _slope(weight: float, q: list[float], p: list[float]) -> list[float]:
    return [weight * (math.exp(b) - math.exp(a)) / 3.5 for a, b in zip(q, p, strict=True)]


_START = [[[2.0, 1.0, 0.0], [0.0, 1.0, 3.0], [1.0, 1.0, 1.0]], [[0.5, 0.0, 0.2]]]
# The first token rises by 1 and falls behind; nothing rises but the second, which leads no more; junk; the last is lowered and no label changes.
_REINFORCED = [[[3.0, 0.5, 0.0], [-4.0, 1.5, 2.0], [9.0, 1.0, 1.0]], [[0.5, -1.0, 0.1]]]
_LOGITS = [[[1.0, 2.0, 0.0], [0.0, 0.5, 0.0], [1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]]
_ALL = {"forget": {"logits": _LOGITS, "reference.logits": _START, "reinforced.logits": _REINFORCED}}
_WEIGHTS = {"forget": [[1.0, 2.0, 0.0], [0.5]]}
_P = [_log_softmax(1, 2, 0), _log_softmax(0, 0.5, 0), _log_softmax(0, 1, 0)]
# With alpha = 2 the generic logits are these.
_Q = [_log_softmax(0, 1, 0), _log_softmax(0, 0, 3), _log_softmax(0.5, 0, 0.2)]

CASES = (
    Case(
        "hard labels: the second, the third and the first token",
        WHP(alpha=2.0),
        _ALL,
        weights=_WEIGHTS,
        loss=-(_P[0][1] + 2 * _P[1][2] + 0.5 * _P[2][0]) / 3.5,
    ),
    Case(
        "soft labels",
        WHP(alpha=2.0, labels="soft"),
        _ALL,
        weights=_WEIGHTS,
        loss=(_kl(_Q[0], _P[0]) + 2 * _kl(_Q[1], _P[1]) + 0.5 * _kl(_Q[2], _P[2])) / 3.5,
        gradient={
            "forget/logits": [
                [_slope(1.0, _Q[0], _P[0]), _slope(2.0, _Q[1], _P[1]), [0, 0, 0]],
                [_slope(0.5, _Q[2], _P[2])],
            ]
        },
    ),
    Case(
        "alpha 0 is self-distillation; the reinforced model says nothing new",
        WHP(alpha=0.0, labels="soft"),
        {"forget": {"logits": _START, "reference.logits": _START, "reinforced.logits": _REINFORCED}},
        loss=0.0,
    ),
)
