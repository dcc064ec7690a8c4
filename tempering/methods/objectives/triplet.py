"""Triplet loss: an answer's embedding is nearer to the farthest of its class than to the nearest of any other, by a margin.

    loss_i = max(0, max_{p in P(i)} |z_i - z_p|^2 - min_{n in N(i)} |z_i - z_n|^2 + margin)

Schroff et al. 2015, arXiv 1503.03832, equation 3, on unit vectors, margin 0.2; the hardest positive and negative of the batch are taken for every
anchor as in Hermans et al. 2017, arXiv 1703.07737, equation 5; the batch is the step. An answer without another of its class, or of another class,
has loss 0 and counts in the divisor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._embedded import Embedded

FAMILY = "unpaired"


@dataclass(frozen=True)
class Triplet(Embedded):
    """Hinge on squared distances to the hardest of the same class and of others."""

    margin: Annotated[float, Field(ge=0)] = 0.2
    """By how much squared distances must differ."""

    def losses(self, near_SS: Tensor, same_SS: Tensor, other_SS: Tensor) -> Tensor:
        # Of unit vectors |x - y|^2 = 2 - 2 xy; the 2 cancels.
        distance_SS = -2 * near_SS
        farthest_S = torch.where(same_SS, distance_SS, -torch.inf).amax(1)
        nearest_S = torch.where(other_SS, distance_SS, torch.inf).amin(1)
        # Without one of its class or of another: -inf.
        return F.relu(farthest_S - nearest_S + self.margin)


# Unit vectors (1, 0), (0.6, 0.8), (0, 1), (0.8, -0.6); cosines of the first 0.6, 0, 0.8; of the second 0.8 and 0; of the third -0.6.
_FOUR = {"hidden": [[[2, 0]], [[3, 4]], [[0, 1]], [[0.8, -0.6]]], "label": [1, 1, 0, 1]}

CASES = (
    Case(
        "three of a class and one alone",
        Triplet(margin=0.5),
        {"train": _FOUR},
        # Squared distances: first: 0.8 (same), 2 (other); second: 2 (same, hardest), 0.4; fourth: 2 (same, hardest), 3.2.
        loss=(0 + 2 - 0.4 + 0.5 + 0 + 0) / 4,
        gradient={
            # -2 (cos 13 - cos 12) / 4: at (3, 4) with |x| = 5 ; d cos(x, y) / dx = (y - cos x) / |x|.
            "train/hidden": [
                [[0, 0]],
                [[-0.5 / 5 * (0.8 + 0.48), -0.5 / 5 * (-0.6 - 1 + 0.64)]],
                [[0.5 * 0.6, 0]],
                [[-0.5 * 0.6, -0.5 * 0.8]],
            ]
        },
    ),
    Case(
        "one class only, and nothing to be far from",
        Triplet(),
        {"train": {"hidden": [[[1, 0]], [[0, 1]], [[1, 1]]], "label": [1, 1, 0]}},
        weights={"train": [[1], [1], [0]]},
        loss=0,
    ),
)
