"""AltPO: DPO with other plausible answers of the model's own as chosen and the forget answer as rejected.

    loss = - (2 / beta) * mean log sigmoid( beta * [ log p/p_ref (alternate | x) - log p/p_ref (answer | x) ] )

Mekala et al. 2024, arXiv 2409.13474: negative feedback alone leaves a model that answers nonsense, so it is told what to say instead. Before training
the model is shown each question with its answer and asked for another in which the facts are changed, 5 times at temperature 1
(`forgetting/alternates.py`); each of these makes a row with the answer. beta = 0.1 and the retain rows' likelihood with weight 1, as in the authors'
published run on TOFU. Where the alternate has not moved this is NPO.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from tempering.cases import Case
from tempering.methods.objectives.idk_dpo import IdkDPO

FAMILY = "forget"
CONFUSED_WITH = {
    "idk_dpo": "prefers a refusal to the forget answer",
    "npo": "pushes the forget answer away and prefers nothing",
    "dpo": "has a chosen answer beside the rejected one",
}
PAPER = {"optimizer.lr": "5e-5 for all weights of LLaMA-2 7B on TOFU, 2 epochs over 5 alternates a question (their README)"}


@dataclass(frozen=True)
class AltPO(IdkDPO):
    """Sigmoid loss that prefers an alternate answer to each forget answer."""

    scale: Annotated[float, Field(gt=0)] = 2.0
    """Over beta it is the loss's scale."""
    alternates: Annotated[int, Field(gt=0)] = 5
    """Answers that the model is asked for, for each question."""
    instead = "alternate"
    asks_for, only_known = "another", False


def _loss(margin: float, beta: float) -> float:
    return 2 / beta * math.log1p(math.exp(-beta * margin))


_FORGET = {"logp": [[-1.0, -2.0, -0.5], [-1.5]], "reference.logp": [[-1.2, -2.6, -9.0], [-1.1]]}
_ALTERNATE = {"logp": [[-3.0, -0.5], [-2.0]], "reference.logp": [[-4.0, -0.25], [-2.5]]}
# Log-ratios of answers 0.5 and -0.4, of alternates 0.75 and 0.5.

EQUIVALENT = {
    "alternates:drop-override:1": "how many are asked for before training: forgetting/alternates.py reads it, the loss sees them as rows",
    "(asks_for, only_known):drop-override:1": "what is asked for before training, likewise",
}

CASES = (
    Case(
        "two alternates to one question count as two",
        AltPO(beta=0.5, retain_loss="none"),
        {"forget": _FORGET, "alternate": _ALTERNATE},
        weights={"forget": [[1.0, 0.5, 0.0], [1.0]]},
        groups={"forget": [0, 0], "alternate": [0, 0]},
        loss=(_loss(0.25, 0.5) + _loss(0.9, 0.5)) / 2,
        gradient={
            "forget/logp": [[1 / (1 + math.exp(0.125)), 0.5 / (1 + math.exp(0.125)), 0.0], [1 / (1 + math.exp(0.45))]],
            "alternate/logp": [[-1 / (1 + math.exp(0.125))] * 2, [-1 / (1 + math.exp(0.45))]],
        },
        logs={"forget_ratio": 0.05},
    ),
    Case(
        "with other rows kept likely, in groups of their own",
        AltPO(),
        {"forget": _FORGET, "alternate": _ALTERNATE, "retain": {"logp": [[-1.0, -3.0], [-2.0]]}},
        weights={"forget": [[1.0, 0.5, 0.0], [1.0]]},
        loss=(_loss(0.25, 0.1) + _loss(0.9, 0.1)) / 2 + 2,
    ),
)
