"""Reward learning on policy, the views: a reward model's features of two answers of the policy to one prompt should say the same of the prompt.

    loss = BT + weight * ( - I(z1; z2) + beta * SKL( p(z1 | v1) || p(z2 | v2) ) )

Lang et al. 2024, arXiv 2403.19279 (RLP; S148), after the multi-view information bottleneck (Federici et al. 2020, arXiv 2002.07017, equation 4): two
answers sampled from the policy are the views v1, v2 of a prompt. I is bounded from below by InfoNCE among the step's prompts. p(z | v) is a normal
distribution of unit variance around the unit vector of the features, so that SKL, the mean of both divergences, is half the squared distance:
1 - cos(z1, z2). This encoder, which has no head of its own and no sampling, and what exactly the paper's views are, are assumptions; weight, beta and
tau are choices of this file. The synthetic pairs are `methods/streams/spg.py`.
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
from tempering.methods.objectives._embedded import Embedded
from tempering.methods.objectives._paired import softplus
from tempering.methods.objectives.bradley_terry import BradleyTerry
from tempering.types import Coefficient, Objective, Parts, Signals

FAMILY = "views"
CATALOGUE = ("S148",)


@dataclass(frozen=True)
class MIB(Embedded):
    """Bradley-Terry, and InfoNCE with a pull between two answers to the same prompt."""

    weight: Annotated[float, Field(ge=0)] = 0.1
    """What the views count for; 0 is Bradley-Terry."""
    beta: Annotated[float, Field(ge=0)] = 0.1
    """What the divergence between the views counts for."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """tau of InfoNCE."""
    part = "responses"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        pairs = {"chosen": frozenset({"reward"}), "rejected": frozenset({"reward"})}
        return {**pairs, "responses": frozenset({"hidden"})} if self.weight else pairs

    def terms(self) -> tuple[tuple[Coefficient, Objective], ...]:
        return ((1.0, BradleyTerry()), (self.weight, self)) if self.weight else ((1.0, BradleyTerry()),)

    def classes(self, parts: Parts, signals: Signals) -> Tensor:
        """The prompt of each answer [S]."""
        return parts["responses"].group_S

    def losses(self, near_SS: Tensor, same_SS: Tensor, other_SS: Tensor) -> Tensor:
        score_SS = near_SS / self.temperature
        # The other view, among it and all answers to other prompts.
        among_SS = torch.where(same_SS | other_SS, score_SS, torch.finfo(score_SS.dtype).min)
        pull_SS = among_SS.logsumexp(1, keepdim=True) - score_SS + self.beta * (1 - near_SS)
        return torch.where(same_SS, pull_SS, 0.0).sum(1) / same_SS.sum(1).clamp(min=1)


def _nce(own: float, *others: float) -> float:
    return math.log(sum(math.exp(x - own) for x in (own, *others)))


# Unit vectors (1, 0), (0.6, 0.8), (0, 1), (0.8, 0.6): cosines 01 0.6, 02 0, 03 0.8, 12 0.8, 13 0.96, 23 0.6.
_VIEWS = {"hidden": [[[9, 9], [2, 0]], [[0.6, 0.8]], [[0, 3]], [[8, 6]]]}
_PAIRS = {"chosen": {"reward": [[1.5], [-0.5]]}, "rejected": {"reward": [[0.25], [1.0]]}}
_BT = (softplus(-1.25) + softplus(1.5)) / 2

CASES = (
    Case(
        "two views of either prompt: 0.6 apart, among those of the other",
        MIB(weight=0.5, beta=3.0, temperature=0.5, pool="last"),
        {**_PAIRS, "responses": _VIEWS},
        groups={"responses": [0, 0, 1, 1]},
        loss=_BT + 0.5 * (3 * 0.4 + (_nce(1.2, 0, 1.6) + _nce(1.2, 1.6, 1.92) + _nce(1.2, 0, 1.6) + _nce(1.2, 1.6, 1.92)) / 4),
    ),
    Case(
        "identical views are no distance apart; three views, each drawn to the mean of both others; one that is not scored is no view",
        MIB(weight=2.0, beta=1e6, temperature=1.0),
        {**_PAIRS, "responses": {"hidden": [[[2, 0]], [[1, 0]], [[0.5, 0]], [[3, 4]]]}},
        weights={"responses": [[1], [1], [1], [0]]},
        groups={"responses": [0, 0, 0, 1]},
        loss=_BT + 2 * math.log(2),
    ),
    Case("without views Bradley-Terry", MIB(weight=0.0), _PAIRS, loss=_BT),
)
EQUIVALENT = {"classes:negate:1": "a class is only compared with others"}
