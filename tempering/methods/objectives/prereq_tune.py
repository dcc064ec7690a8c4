"""Prereq-Tune, stage 2: cross-entropy of the skill adapter over a knowledge adapter, and for real examples of the skill adapter alone as well.

    loss_t = - log p(y_t | y_<t; base + knowledge + skill) - alone * real * log p(y_t | y_<t; base + skill)

Liu et al. 2024, arXiv 2410.19290 (S120). The facts that the answers need are in the frozen knowledge adapter, so the skill adapter need not learn
them. The second term, for examples that are not fictitious, is that of the released trainer (weight 1; read there by the catalogue, not here). The
two models are one (`scopes/stacked.py`): role "alone" is the policy without the adapter beneath.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives.nll import NLL
from tempering.types import Context, Parts, Signals

CATALOGUE = ("S120",)


@dataclass(frozen=True)
class PrereqTune(NLL):
    """Cross-entropy with the knowledge beneath, and of real examples without it."""

    alone: Annotated[float, Field(ge=0)] = 1.0
    """Weight of real examples without the knowledge; 0 leaves that pass out."""

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {self.part: frozenset({"logp", "alone.logp", "real"} if self.alone else {"logp"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        batch, found = parts[self.part], signals[self.part]
        if not self.alone:
            return -found["logp"]
        return -found["logp"] - self.alone * found["real"][batch.segment_T] * found["alone.logp"]


_BOTH = {"train": {"logp": [[-9, -1, -2], [-4]], "alone.logp": [[-8, -3, -5], [-7]], "real": [1.0, 0.0]}}
_WEIGHTS = {"train": [[0, 1, 0.5], [2]]}
CASES = (
    Case(
        "a real example counts twice, a fictitious one with its knowledge only",
        PrereqTune(alone=0.5),
        _BOTH,
        weights=_WEIGHTS,
        loss=(1 + 1 + 8 + 0.5 * (3 + 2.5)) / 3.5,
        gradient={
            "train/logp": [[0, -1 / 3.5, -0.5 / 3.5], [-2 / 3.5]],
            "train/alone.logp": [[0, -0.5 / 3.5, -0.25 / 3.5], [0]],
        },
    ),
    Case("without the second term it is cross-entropy", PrereqTune(alone=0), _BOTH, weights=_WEIGHTS, loss=(1 + 1 + 8) / 3.5),
)
