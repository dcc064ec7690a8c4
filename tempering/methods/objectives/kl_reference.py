"""KL divergence from the starting model on rows that it should go on treating as it did: the retain term "kl" of unlearning.

    loss_t = sum_v p_ref(v | y_<t) [ log p_ref(v | y_<t) - log p(v | y_<t) ]

The divergence of the policy from the reference over the whole vocabulary at each scored token (forward KL), as in Maini et al. 2024 (TOFU, arXiv
2401.06121, "KL minimisation") and Zhang et al. 2024 (NPO, arXiv 2404.05868, the "KL" variants). Unlike the likelihood it pulls towards what the model
said, not towards what the rows say, and it is 0 at the start. It reads the logits of both models: the memory of a micro-batch's scored tokens times
the vocabulary, twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tempering.cases import Case
from tempering.types import Context, Norm, Objective, Parts, Signals


@dataclass(frozen=True)
class KLReference(Objective):
    """Forward KL divergence from the reference on the scored tokens of one part."""

    part: str = "train"
    """The part of the batch that is held."""
    norm: Norm = "tokens"
    """What the sum is divided by."""

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {self.part: frozenset({"logits", "reference.logits"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        log_p_TV = signals[self.part]["logits"].log_softmax(-1)
        log_ref_TV = signals[self.part]["reference.logits"].log_softmax(-1)
        return (log_ref_TV.exp() * (log_ref_TV - log_p_TV)).sum(-1)


_LN2, _LN3 = math.log(2), math.log(3)
# Reference (1/2, 1/2) against policy (1/4, 3/4); reference (1/4, 3/4) against (1/2, 1/2); one unscored token; equal distributions.
_KL = [0.5 * math.log(4 / 3), 0.25 * math.log(0.5) + 0.75 * math.log(1.5)]

CASES = (
    Case(
        "two tokens of unequal weight, one without, and a row that did not move",
        KLReference(),
        {
            "train": {
                "logits": [[[0.0, _LN3], [1.0, 1.0], [5.0, -5.0]], [[0.0, _LN2]]],
                "reference.logits": [[[0.5, 0.5], [0.0, _LN3], [0.0, 0.0]], [[1.0, 1.0 + _LN2]]],
            }
        },
        weights={"train": [[1.0, 2.0, 0.0], [1.0]]},
        loss=(_KL[0] + 2 * _KL[1]) / 4,
        gradient={"train/logits": [[[-0.25 / 4, 0.25 / 4], [2 * 0.25 / 4, -2 * 0.25 / 4], [0, 0]], [[0, 0]]]},
    ),
    Case(
        "by rows",
        KLReference("retain", "segment_mean"),
        {"retain": {"logits": [[[0.0, _LN3], [1.0, 1.0]], [[0.0, _LN3]]], "reference.logits": [[[0.5, 0.5], [0.0, _LN3]], [[2.0, 2.0]]]}},
        weights={"retain": [[1.0, 2.0], [0.5]]},
        loss=((_KL[0] + 2 * _KL[1]) / 3 + _KL[0]) / 2,
    ),
)
