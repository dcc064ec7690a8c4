"""MemFlex: ascent on the forget rows and descent on the retain rows, in those tensors alone that the forget rows pull at in a direction of their own.

    loss = - 0.4 CE(forget) + 2 CE(retain),   over { W : cos(g_f(W), g_r(W)) < mu  and  mean |g_f(W)| > sigma }

Tian et al. 2024 (S011, arXiv 2407.01920, section 4); the weights of the two terms, mu and sigma are the released code's. g_f and g_r are mean
gradients on forget and retain rows with half of each answer's tokens drawn at random (`forgetting.localise`), taken once before training. There the
adapters that learned the knowledge are looked at; a new LoRA's A has no gradient while its B is 0, so with `--scope lora` only B matrices can be in
the region, and `--scope full` chooses among the weights themselves. Of the retain rows as many are looked at as there are forget rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from tempering.cases import Case
from tempering.methods.objectives._forgetting import RetainLoss
from tempering.methods.objectives.gradient_ascent import GradientAscent

FAMILY = "forget"
CATALOGUE = ("S011",)
CONFUSED_WITH = {"gradient_ascent": "moves every tensor of the scope"}
PAPER = {"optimizer.lr": "3e-4, LoRA, 2 epochs (released configuration, as the catalogue says)"}


@dataclass(frozen=True)
class MemFlex(GradientAscent):
    """GradDiff within the region that gradients give."""

    mu: float = 0.92
    """Tensors whose forget and retain gradients have a cosine of this or more stay as they are; above 1 none does for that."""
    sigma: Annotated[float, Field(ge=0)] = 6e-4
    """So do those whose forget gradient is not larger than this on average, in absolute value."""
    copies: Annotated[int, Field(gt=0)] = 3
    """How often each row is looked at, with other random tokens."""
    weight: Annotated[float, Field(ge=0)] = 0.4
    """Weight of the forget term."""
    retain_loss: RetainLoss = "nll"
    """What holds the rest."""
    retain_weight: Annotated[float, Field(ge=0)] = 2.0
    """Weight of the retain term."""


CASES = (
    Case(
        "0.4 of the ascent and twice the likelihood of other rows",
        MemFlex(),
        {"forget": {"logp": [[-1, -2, -4], [-8]]}, "retain": {"logp": [[-1, -3], [-0.5]]}},
        weights={"forget": [[0, 1, 0.5], [2]], "retain": [[0, 1], [2]]},
        loss=-0.4 * (4 + 16) / 3.5 + 2 * (3 + 1) / 3,
        gradient={"forget/logp": [[0, 0.4 / 3.5, 0.2 / 3.5], [0.8 / 3.5]], "retain/logp": [[0, -2 / 3], [-4 / 3]]},
    ),
    Case(
        "what the region is made by is no part of the loss",
        MemFlex(mu=1.01, sigma=0.0, copies=1, retain_loss="none"),
        {"forget": {"logp": [[-1], [-3]]}},
        loss=-0.4 * 2,
    ),
)
