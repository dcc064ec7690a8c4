"""FIRST: distillation from the few likeliest tokens of a teacher, kept on disk, after its confidence was put right.

    p_i = softmax_i( log p(v_i) / c ) over the kept tokens v_1 .. v_k,    p_1 - delta,  p_i + delta / (k - 1) for the others
    loss_t = sum_i p_i ( log p_i - log q_i ),    q of the student over the same

Shum et al. 2024 (FIRST, EMNLP 2024; k = 5, which hold some 95% of the mass). Fine-tuned teachers are too sure of themselves, and students inherit
it: a temperature c (`--calibrate`: that of the least calibration error on held-out rows) or smoothing by delta mends it, and changes no answer. With
`rest` one more bucket holds what the others leave, for both models; without it both are renormalised over the kept tokens. With all tokens kept and
c = 1 it is the forward KL. The released code takes a softmax of the probabilities and smooths log-probs; here it is as the text has it.
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
from tempering.types import Context, Norm, Objective, Parts, Signals

FAMILY = "distil"
CATALOGUE = ("S230",)


@dataclass(frozen=True)
class FIRST(Objective):
    """Forward KL over the teacher's likeliest tokens."""

    k: Annotated[int, Field(ge=2)] = 5
    """How many tokens of the teacher are kept."""
    c: Annotated[float, Field(gt=0)] = 1.0
    """The teacher's log-probs are divided by it; above 1 it is less sure."""
    delta: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Taken from the likeliest token and given to the other kept ones."""
    rest: bool = True
    """One more bucket for all tokens that are not kept."""
    norm: Norm = "tokens"
    """What the sum is divided by."""
    by_token = True

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"train": frozenset({"logits", f"teacher.top_logp.{self.k}", f"teacher.top_id.{self.k}"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        mask_T1 = parts["train"].weight_T[:, None] != 0
        teacher_TK, id_TK = (signals["train"][f"teacher.{name}.{self.k}"] for name in ("top_logp", "top_id"))
        student_TK = signals["train"]["logits"].log_softmax(-1).gather(-1, torch.where(mask_T1, id_TK, 0).long())
        if self.rest:
            teacher_TK, student_TK = _with_rest(teacher_TK), _with_rest(student_TK)
        shift_K = torch.full((self.k,), self.delta / (self.k - 1), dtype=teacher_TK.dtype, device=teacher_TK.device)
        shift_K[0] = -self.delta
        # The rest stays as it is.
        target_TK = (teacher_TK / self.c).softmax(-1) + F.pad(shift_K, (0, int(self.rest)))
        return (torch.xlogy(target_TK, target_TK) - target_TK * student_TK.log_softmax(-1)).sum(-1)


def _with_rest(logp_TK: Tensor) -> Tensor:
    """Log-probs [T, K] and that of everything else [T, K + 1]."""
    return torch.cat([logp_TK, (1 - logp_TK.exp().sum(-1, keepdim=True)).clamp(min=1e-12).log()], -1)


def _logs(*chances: float) -> list[float]:
    return [math.log(p) for p in chances]


def _kl(p: tuple[float, ...], *q: float) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


# A student that finds four tokens alike; one of odds 1:1:2:4; a token without weight.
_ALIKE, _ODDS, _FIVE = [0.0] * 4, _logs(1, 1, 2, 4), [[[0.0] * 5], [_logs(1, 1, 1, 1, 12)]]
_GIVEN = {
    "logits": [[_ALIKE, _ODDS, [9.0, 0.0, 0.0, 0.0]], [_ALIKE]],
    "teacher.top_logp.2": [[_logs(0.5, 0.25), _logs(0.6, 0.2), _logs(0.9, 0.1)], [_logs(0.64, 0.16)]],
    "teacher.top_id.2": [[[2.0, 0.0], [3.0, 1.0], [-1.0, 7.0]], [[1.0, 2.0]]],
}
_WEIGHTS = [[1.0, 2.0, 0.0], [0.5]]
_TOLD = ((0.5, 0.25, 0.25), (0.6, 0.2, 0.2), (0.64, 0.16, 0.2))
# Of (0.64, 0.16, 0.16, and 0.04 for the rest).
_COOL = (8 / 18 - 0.1, 4 / 18 + 0.05, 4 / 18 + 0.05, 2 / 18)

CASES = (
    Case(
        "two tokens and the rest",
        FIRST(k=2),
        {"train": _GIVEN},
        weights={"train": _WEIGHTS},
        loss=(_kl(_TOLD[0], 0.25, 0.25, 0.5) + 2 * _kl(_TOLD[1], 0.5, 0.125, 0.375) + 0.5 * _kl(_TOLD[2], 0.25, 0.25, 0.5)) / 3.5,
        # q - p of a kept token; of the rest's tokens each has its share of q - p of the rest.
        gradient={
            "train/logits": [
                [[0.0, 0.125 / 3.5, -0.25 / 3.5, 0.125 / 3.5], [0.35 / 3 / 3.5, -0.15 / 3.5, 0.7 / 3 / 3.5, -0.2 / 3.5], _ALIKE],
                [[0.075 / 3.5, -0.195 / 3.5, 0.045 / 3.5, 0.075 / 3.5]],
            ]
        },
    ),
    Case(
        "two tokens alone, renormalised",
        FIRST(k=2, rest=False),
        {"train": _GIVEN},
        weights={"train": _WEIGHTS},
        loss=(_kl((2 / 3, 1 / 3), 0.5, 0.5) + 2 * _kl((0.75, 0.25), 0.8, 0.2) + 0.5 * _kl((0.8, 0.2), 0.5, 0.5)) / 3.5,
    ),
    Case(
        "a teacher made less sure: roots of its chances, and a tenth from the likeliest to the other two; the rest keeps its share",
        FIRST(k=3, c=2.0, delta=0.1),
        {"train": {"logits": _FIVE, "teacher.top_logp.3": [[_logs(0.64, 0.16, 0.16)]] * 2, "teacher.top_id.3": [[[4, 0, 2]], [[4, 3, 1]]]}},
        loss=(_kl(_COOL, 0.2, 0.2, 0.2, 0.4) + _kl(_COOL, 0.75, 0.0625, 0.0625, 0.125)) / 2,
    ),
)
EQUIVALENT = {"__call__:constant:2": "which token is looked up where none is scored does not matter"}
