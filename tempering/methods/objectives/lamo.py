"""LaMo's loss on walks: the likelihood of the action that was taken, given what was wanted, seen and done before it.

    loss_t = - log softmax(z_t)_(a_t),   z_t = the action head at the observation s_t

Shi et al. 2023 (LaMo, arXiv 2310.20587, S089), for actions that are one of several: the paper's squared error becomes a cross-entropy. The whole
loss is this one plus lambda = 0.1 times that of a language model on text (`NLL(part="text")`; recipe `lamo`). Without the text, with linear
embeddings and a trunk that begins at random and trains whole it is a plain decision transformer's (Chen et al. 2021, arXiv 2106.01345).
The head's numbers come from the role "actor" (models/decisions.py), whose trunk is the policy's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tempering.cases import Case
from tempering.reduce import scored, unscored
from tempering.types import Context, Norm, Objective, Parts, Signals

CATALOGUE = ("S089",)


@dataclass(frozen=True)
class LaMo(Objective):
    """Cross-entropy over actions."""

    norm: Norm = "tokens"
    """What the sum is divided by: all actions of a step count alike."""

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"train": frozenset({"actor.values", "action"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        train, said = parts["train"], signals["train"]
        logits_NK, action_N = scored(said["actor.values"], train), scored(said["action"], train).long()
        ctx.log(accuracy=(logits_NK.argmax(-1) == action_N).float())
        return unscored(-logits_NK.log_softmax(-1).gather(-1, action_N[:, None]).squeeze(-1), train)


_LN2, _LN3 = math.log(2), math.log(3)
# Probabilities 1/4, 1/4, 1/2; 3/5, 1/5, 1/5; and three that are alike.
_VALUES = [[[9.0, 0.0, 0.0], [0.0, 0.0, _LN2], [_LN3, 0.0, 0.0]], [[1.0, 1.0, 1.0]]]
_ACTIONS = {"train": {"actor.values": _VALUES, "action": [[0, 2, 2], [0]]}}

CASES = (
    Case(
        "the likeliest action, an unlikely one, one of three alike; a token that is no action",
        LaMo(),
        _ACTIONS,
        weights={"train": [[0.0, 1.0, 0.5], [2.0]]},
        loss=(_LN2 + 0.5 * math.log(5) + 2 * _LN3) / 3.5,
        gradient={
            "train/actor.values": [
                [[0, 0, 0], [1 / 4 / 3.5, 1 / 4 / 3.5, -1 / 2 / 3.5], [0.5 * 3 / 5 / 3.5, 0.5 / 5 / 3.5, -0.5 * 4 / 5 / 3.5]],
                [[2 * -2 / 3 / 3.5, 2 / 3 / 3.5, 2 / 3 / 3.5]],
            ]
        },
        logs={"accuracy": 2 / 3},
    ),
    Case(
        "each walk counts alike",
        LaMo(norm="segment_mean"),
        _ACTIONS,
        weights={"train": [[0.0, 1.0, 1.0], [1.0]]},
        loss=((_LN2 + math.log(5)) / 2 + _LN3) / 2,
    ),
)
