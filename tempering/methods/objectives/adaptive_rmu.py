"""Adaptive RMU: as RMU, but each token of a forget row is pushed as far along u as its own state was long at the start, times beta.

    loss = mean_t || h_l(x_f)_t - beta || h_l_ref(x_f)_t || u ||^2  +  alpha mean_t || h_l(x_r)_t - h_l_ref(x_r)_t ||^2

Huu-Tien et al. 2024 (arXiv 2408.06223, section 5): states grow longer from layer to layer, so one fixed length c steers early layers only; beta = 5
works for layers in the middle and later too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives.rmu import RMU
from tempering.types import Signals

FAMILY = "forget"
CONFUSED_WITH = {"rmu": "the same length for every token"}


@dataclass(frozen=True)
class AdaptiveRMU(RMU):
    """Squared distance of the forget rows' hidden states from beta times their first length along u."""

    steering: Annotated[float, Field(gt=0)] = 5.0
    """beta: how many times a state's length at the start."""

    @property
    def reads(self) -> Mapping[str, frozenset[str]]:
        return {"forget": frozenset({f"hidden.{self.layer}", f"reference.hidden.{self.layer}"})}

    def lengths(self, signals: Signals) -> float | Tensor:
        return self.steering * signals["forget"][f"reference.hidden.{self.layer}"].norm(dim=-1, keepdim=True)


CASES = (
    Case(
        "states of one dimension: u is 1, and the targets 2 * 3, 2 * 1.5 and 2 * 0.5",
        AdaptiveRMU(layer=1, steering=2.0, retain_loss="none"),
        {"forget": {"hidden.1": [[[5.0], [1.0]], [[4.0]]], "reference.hidden.1": [[[-3.0], [1.5]], [[0.5]]]}},
        weights={"forget": [[1.0, 3.0], [0.5]]},
        loss=((1 + 3 * 4) / 4 + 9) / 2,
        gradient={"forget/hidden.1": [[[-2 / 8], [-3 * 4 / 8]], [[6 / 2]]]},
    ),
    Case(
        "a state of two dimensions is as long as the root of its squares; other rows are held",
        AdaptiveRMU(layer=1, retain_weight=4.0),
        {
            # At u's length 25 the distance from 0 is 25 whatever u is.
            "forget": {"hidden.1": [[[0.0, 0.0]], [[0.0, 0.0]]], "reference.hidden.1": [[[3.0, -4.0]], [[0.0, 1.0]]]},
            "retain": {"hidden.1": [[[1.0, 1.0]], [[2.0, 0.0]]], "reference.hidden.1": [[[1.0, 2.0]], [[0.0, 0.0]]]},
        },
        loss=(25**2 + 5**2) / 2 + 4 * (1 + 4) / 2,
    ),
)
