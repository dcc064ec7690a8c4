"""Squared distance of hidden states from the starting model's, on rows that it should go on representing as it did: the retain term of RMU.

    loss_t = || h_l(y_<=t) - h_l_ref(y_<=t) ||^2

Li et al. 2024 (WMDP, arXiv 2403.03218, section 4, "retain loss"): the state after layer l at each scored token. The released code takes the mean over
the state's dimensions, here and in the forget term, which only scales both. It is 0 at the start. Nothing after layer l gets a gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.types import Context, Norm, Objective, Parts, Signals


@dataclass(frozen=True)
class HiddenReference(Objective):
    """Squared distance from the reference's hidden states on the scored tokens of one part."""

    part: str = "train"
    """The part of the batch that is held."""
    layer: Annotated[int, Field(ge=0)] = 3
    """After how many layers the states are compared; 0 is the embeddings."""
    norm: Norm = "segment_mean"
    """What the sum is divided by."""

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {self.part: frozenset({f"hidden.{self.layer}", f"reference.hidden.{self.layer}"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        here = signals[self.part]
        return (here[f"hidden.{self.layer}"] - here[f"reference.hidden.{self.layer}"]).square().sum(-1)


_START = [[[1.0, 2.0], [0.5, 0.0], [3.0, 3.0]], [[-1.0, 4.0]]]

CASES = (
    Case(
        "two tokens that moved, one without weight, and a row that did not move; each row counts alike",
        HiddenReference(layer=1),
        {"train": {"hidden.1": [[[1.5, 0.0], [0.5, -3.0], [9.0, 9.0]], [[-1.0, 4.0]]], "reference.hidden.1": _START}},
        weights={"train": [[1.0, 2.0, 0.0], [0.5]]},
        # Distances 0.5^2 + 2^2 and 3^2.
        loss=((4.25 + 2 * 9) / 3 + 0) / 2,
        gradient={"train/hidden.1": [[[1 / 6, -4 / 6], [0, -2 * 6 / 6], [0, 0]], [[0, 0]]]},
    ),
    Case(
        "nothing moved",
        HiddenReference("retain", 0),
        {"retain": {"hidden.0": _START, "reference.hidden.0": _START}},
        loss=0.0,
    ),
    Case(
        "every token counts alike",
        HiddenReference(layer=0, norm="tokens"),
        {"train": {"hidden.0": [[[1.0], [2.0]], [[4.0]]], "reference.hidden.0": [[[0.0], [4.0]], [[1.0]]]}},
        loss=(1 + 4 + 9) / 3,
    ),
)
