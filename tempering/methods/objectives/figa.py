"""Fine-grained quality signals: of an answer and its revision only what the edit changed is learned: what came in is raised, what went lowered.

    loss = (1/N) [ - alpha * sum_{t came in} log p_t + beta * sum_{t went} log p_t ]

Guo et al. 2023, arXiv 2311.04072 (S151, FIGA); alpha = 1, beta = 0.5. Inserted or substituted tokens of the revision came in, deleted or substituted
ones of the first answer went. From the released code: N counts the changed tokens of both answers, the revision's end counts as changed, and a token
that is already unlikely (-log p > 0.6) is lowered no further. Part "train" holds both answers as segments with weight 1 on changed tokens; the
column "revised" is 1 for a revision's tokens and 0 for a first answer's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tempering.cases import Case
from tempering.types import Context, Objective, Parts, Signals

FAMILY = "pairs"
CATALOGUE = ("S151",)
PAPER = {"optimizer.lr": "1e-5 (released code, as the catalogue says)"}
RECIPE = {"schedule.name": "constant"}  # released code, as the catalogue says


@dataclass(frozen=True)
class FIGA(Objective):
    """Likelihood of what a revision brought in, unlikelihood of what it took out."""

    alpha: float = 1.0
    """Weight of tokens that came in."""
    beta: float = 0.5
    """Weight of tokens that went."""
    enough: float = 0.6
    """Negative log-likelihood above which a token that went is left alone."""
    norm = "tokens"
    part = "train"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"train": frozenset({"logp", "revised"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        logp_T, revised_T = signals["train"]["logp"], signals["train"]["revised"] != 0
        lowered_T = torch.where(-logp_T <= self.enough, self.beta * logp_T, 0.0)
        return torch.where(revised_T, -self.alpha * logp_T, lowered_T)


CASES = (
    Case(
        "two tokens came in, three went, of which one is already unlikely and still counts in the divisor",
        FIGA(alpha=2.0, beta=0.25),
        {"train": {"logp": [[-0.9, -0.7, -0.2], [-0.6, -0.8, -0.3, -0.1]], "revised": [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]}},
        weights={"train": [[0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 1.0]]},
        loss=(2.0 * 0.9 - 0.25 * (0.6 + 0.1)) / 5,
        gradient={"train/logp": [[0.0, -0.4, -0.4], [0.05, 0.0, 0.0, 0.05]]},
    ),
)
