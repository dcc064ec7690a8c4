"""UniMC: of several options the right one, each judged in a branch of its own by how much the model wants to say yes behind it.

    loss = - log softmax_k( z_k ) at the right option,   z_k = the logit of "yes" behind the question and option k

Yang et al. 2022, arXiv 2210.08590 (S087). There an encoder marks each option with a mask token, options do not see each other and share positions;
here an option is a continuation of the common question, which goes through the model once (forest.py), so both hold exactly: no option sees another
or has a place among them, and permuting or doubling options permutes or doubles the scores to the bit. The paper's further loss on masked words of
the passage and its "no" (recalled, unsure) are not part of this file. "yes" is the first scored token of each answer; its logit is logp + logsumexp.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._listed import Listed, best
from tempering.reduce import first, group_log_softmax, segment_weight
from tempering.types import Batch, Context

FAMILY = "options"
CATALOGUE = ("S087",)


@dataclass(frozen=True)
class UniMC(Listed):
    """Softmax over a question's options of the logit of the token that says yes."""

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"responses": frozenset({"logp", "logsumexp", "score"})}

    def loss(self, batch: Batch, signals: Mapping[str, Tensor], better_SS: Tensor, ctx: Context) -> Tensor:
        yes_S = first(signals["logp"] + signals["logsumexp"], batch)
        self.log_order(ctx, yes_S, better_SS)
        among_S = torch.where(segment_weight(batch) != 0, yes_S, torch.finfo(yes_S.dtype).min)
        return torch.where(best(signals["score"], batch), -group_log_softmax(among_S, batch), 0.0)


# Logits of yes: 1, 2, 0 and 3, -1; the second and the fifth option are right.
_OPTIONS = {
    "responses": {
        "logp": [[-9, -1], [-2, -5], [-3], [-0.5], [-4]],
        "logsumexp": [[7, 2], [4, 4], [3], [3.5], [3]],
        "score": [0, 1, 0, 0, 1],
    }
}
_WEIGHTS = {"responses": [[0, 1], [0.5, 1], [1], [1], [2]]}
_GROUPS = {"responses": [0, 0, 0, 1, 1]}
_Z, _P = math.e + math.e**2 + 1, 1 / (1 + math.exp(4))

CASES = (
    Case(
        "three options and two; only the first token that is scored counts, and its weight does not",
        UniMC(),
        _OPTIONS,
        weights=_WEIGHTS,
        groups=_GROUPS,
        loss=(math.log(_Z) - 2 - math.log(_P)) / 2,
        gradient={
            "responses/logp": [[0, math.e / _Z / 2], [(math.e**2 / _Z - 1) / 2, 0], [1 / _Z / 2], [(1 - _P) / 2], [(_P - 1) / 2]],
            "responses/logsumexp": [[0, math.e / _Z / 2], [(math.e**2 / _Z - 1) / 2, 0], [1 / _Z / 2], [(1 - _P) / 2], [(_P - 1) / 2]],
        },
        logs={"value": (1 + 2 + 0 + 3 - 1) / 5, "accuracy": 2 / 3},
    ),
    Case(
        "an option without a scored token takes no part",
        UniMC(),
        _OPTIONS,
        weights={"responses": [[0, 0], [0.5, 1], [1], [0], [2]]},
        groups=_GROUPS,
        loss=math.log(1 + math.exp(-2)) / 2,
    ),
)
