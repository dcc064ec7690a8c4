"""Adversarial labels: each token of a forget row is replaced, as a label, by the wrong token that the model finds likeliest, and that is learned.

    loss_t = - log p(a_t | y_<t),   a_t = argmax_{v != y_t} p_ref(v | y_<t)

Yao et al. 2024, arXiv 2402.15159 (S084), "unlearning with adversarial samples": one of its seven ways. Labels are the starting model's, drawn once
before training, as in the authors' code (top_k = 1 without the true token); `labeller="policy"` asks the model as it is now. The authors' code takes
out the token that was read last instead of the one to come, so some of its labels are true ones; here they never are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._forgetting import Forgetting, RetainLoss, row
from tempering.reduce import scored
from tempering.types import Context, Norm, Parts, Signals

FAMILY = "forget"
CATALOGUE = ("S084",)
CONFUSED_WITH = {"random_labels": "takes tokens at random"}


@dataclass(frozen=True)
class AdversarialLabels(Forgetting):
    """Negative log-likelihood of the likeliest wrong token."""

    labeller: Literal["reference", "policy"] = "reference"
    """Whose likeliest wrong token it is: the starting model's, or that of the model in training."""
    norm: Norm = "tokens"
    """What the forget term is divided by."""
    retain_loss: RetainLoss = "none"
    """The paper has no retain term beside it."""
    per = "token"

    @property
    def reads(self) -> Mapping[str, frozenset[str]]:
        return {"forget": frozenset({"logits"} | ({"reference.logits"} if self.labeller == "reference" else set()))}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        s, ids_T1 = signals["forget"], parts["forget"].ids_T.long()[:, None]
        asked_TV = s["reference.logits"] if self.labeller == "reference" else s["logits"]
        label_T1 = asked_TV.scatter(1, ids_T1, -torch.inf).argmax(-1, keepdim=True)
        logp_TV = s["logits"].log_softmax(-1)
        ctx.log(forget_nll=-scored(logp_TV.gather(-1, ids_T1), parts["forget"]))
        return -logp_TV.gather(-1, label_T1)[:, 0]


_LOGITS = [[row(t3=0.5, t1=0.2), row(t4=0.25, t2=0.5), row()], [row(t6=0.1, t7=0.2, t8=0.3)]]

CASES = (
    Case(
        "the starting model's likeliest token is the true one in the first place and the last, not in the second",
        AdversarialLabels(),
        {
            "forget": {
                "logits": _LOGITS,
                "reference.logits": [[row(t3=0.5, t9=0.2), row(t4=0.25, t2=0.5), row(t1=0.5)], [row(t6=0.6, t7=0.25, t8=0.02)]],
            }
        },
        weights={"forget": [[1.0, 0.5, 0.0], [2.0]]},
        loss=-(math.log(0.3 / 8) + 0.5 * math.log(0.5) + 2 * math.log(0.2)) / 3.5,
        gradient={
            "forget/logits": [
                [
                    [x / 3.5 for x in [0.0375, 0.2, 0.0375, 0.5, *[0.0375] * 5, 0.0375 - 1]],
                    [x / 7 for x in [0.03125, 0.03125, -0.5, 0.03125, 0.25, *[0.03125] * 5]],
                    [0.0] * 10,
                ],
                [[x / 1.75 for x in [*[0.4 / 7] * 6, 0.1, -0.8, 0.3, 0.4 / 7]]],
            ]
        },
        logs={"forget_nll": -(math.log(0.5) + math.log(0.25) + math.log(0.1)) / 3},
    ),
    Case(
        "those of the model as it is, beside other rows",
        AdversarialLabels("nll", labeller="policy", weight=0.5, retain_weight=2.0),
        {"forget": {"logits": _LOGITS}, "retain": {"logp": [[-1.0, -3.0]]}},
        weights={"forget": [[1.0, 0.5, 0.0], [2.0]]},
        loss=-0.5 * (math.log(0.2) + 0.5 * math.log(0.5) + 2 * math.log(0.3)) / 3.5 + 4,
    ),
)
