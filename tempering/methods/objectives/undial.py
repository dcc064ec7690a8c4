"""UNDIAL: the model learns its own distribution with the token that was memorised turned down.

    q_t = softmax( z_ref - beta * onehot(y_t) ),    loss_t = - sum_v q_t(v) log p(v | y_<t)

Dong et al. 2024, arXiv 2402.10052 (NAACL 2025): self-distillation on adjusted logits. The target is fixed and a distribution, so unlike gradient
ascent the loss has a minimum, which all tokens but y_t share as they did before. beta = 10 (3, 10 and 30 are searched) and no retain rows, as the
authors state for OpenUnlearning. OpenUnlearning's own loss also runs over the tokens of the prompt and the padding, where its label -100 turns down
the hundredth token from the end of the vocabulary; the two are equal on rows that are answer throughout, and there is no option for the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._forgetting import Forgetting, RetainLoss, row
from tempering.reduce import scored
from tempering.types import Context, Norm, Parts, Signals

FAMILY = "forget"
PAPER = {"optimizer.lr": "1e-4 for LoRA of rank 8 and alpha 16 on LLaMA-2 7B, in batches of 32 (as OpenUnlearning states it)"}


@dataclass(frozen=True)
class UNDIAL(Forgetting):
    """Cross-entropy to the starting model's distribution with the answer's token turned down."""

    beta: Annotated[float, Field(ge=0)] = 10.0
    """By how much the logit of the answer's token is lowered; 0 is plain self-distillation."""
    norm: Norm = "tokens"
    """What the forget term is divided by."""
    retain_loss: RetainLoss = "none"
    """The paper has no retain term."""
    per = "token"

    @property
    def reads(self) -> Mapping[str, frozenset[str]]:
        return {"forget": frozenset({"logits", "reference.logits"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        reference_TV, ids_T1 = signals["forget"]["reference.logits"], parts["forget"].ids_T.long()[:, None]
        target_TV = reference_TV.scatter_add(1, ids_T1, reference_TV.new_full(ids_T1.shape, -self.beta)).softmax(-1)
        logp_TV = signals["forget"]["logits"].log_softmax(-1)
        ctx.log(forget_nll=-scored(logp_TV.gather(-1, ids_T1), parts["forget"]))
        return -(target_TV * logp_TV).sum(-1)


CASES = (
    Case(
        "a token four times as likely as any other is turned down to be like them; one that nobody expects becomes rarer still",
        UNDIAL(beta=math.log(4)),
        {
            "forget": {
                "logits": [[row(t3=0.5), row(t4=0.5, t0=0.25), row()], [row(t6=0.1, t1=0.82)]],
                "reference.logits": [[row(t3=4 / 13), row(t4=0.5, t0=0.25), row()], [[v + 2.0 for v in row()]]],
            }
        },
        weights={"forget": [[1.0, 0.5, 0.0], [2.0]]},
        loss=(
            -(math.log(0.5) + 9 * math.log(0.5 / 9)) / 10
            - 0.5 * (0.2 * math.log(0.5) + 0.4 * math.log(0.25) + 0.4 * math.log(0.25 / 8))
            - 2 * (0.025 * math.log(0.1) + 0.1 * math.log(0.82) + 0.8 * math.log(0.01)) / 0.925
        )
        / 3.5,
        gradient={
            "forget/logits": [
                [
                    [(0.5 / 9 - 0.1) / 3.5] * 3 + [0.4 / 3.5] + [(0.5 / 9 - 0.1) / 3.5] * 6,
                    [-0.15 * 0.5 / 3.5] + [(0.25 / 8 - 0.05) * 0.5 / 3.5] * 3 + [0.3 * 0.5 / 3.5] + [(0.25 / 8 - 0.05) * 0.5 / 3.5] * 5,
                    [0.0] * 10,
                ],
                [
                    [
                        2 * (p - q / 0.925) / 3.5
                        for p, q in zip([0.01, 0.82, *[0.01] * 4, 0.1, *[0.01] * 3], [0.1] * 6 + [0.025] + [0.1] * 3, strict=True)
                    ]
                ],
            ]
        },
        logs={"forget_nll": -(math.log(0.5) * 2 + math.log(0.1)) / 3},
    ),
    Case(
        "plain self-distillation beside other rows",
        UNDIAL(beta=0.0, retain_loss="nll", weight=0.5, retain_weight=2.0),
        {"forget": {"logits": [[row(t3=0.5)], [row()]], "reference.logits": [[row(t3=0.5)], [row(t2=0.91)]]}, "retain": {"logp": [[-1.0, -3.0]]}},
        loss=0.5 * (-(0.5 * math.log(0.5) + 0.5 * math.log(0.5 / 9)) + math.log(10)) / 2 + 4,
    ),
)
