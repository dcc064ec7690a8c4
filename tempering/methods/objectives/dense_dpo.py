"""Dense DPO (RLHF-V): pairs are an answer and its human correction; corrected segments count gamma times as much as what was left alone.

    log pi(y) = (1/N) [ sum_{t unchanged} log p_t + gamma * sum_{t corrected} log p_t ],   N = |unchanged| + gamma * |corrected|;   then DPO

Yu et al. 2023, arXiv 2312.00849 (S249), equations 2 and 3; gamma = 5, beta = 0.5. Corrected tokens are marked by a column "corrected" (1 or 0 per
token) of both answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._paired import EXAMPLE, SIDES, WEIGHTS, Pairs, softplus
from tempering.methods.objectives.dpo import DPO
from tempering.reduce import segment_mean
from tempering.types import Batch, Parts, Signals

FAMILY = "pairs"
CATALOGUE = ("S249",)
PAPER = {"optimizer.lr": "5e-7 (released code; recalled, not checked)"}


@dataclass(frozen=True)
class DenseDPO(DPO):
    """DPO on means of log-probs in which corrected tokens weigh more."""

    beta: float = 0.5
    gamma: float = 5.0
    """Weight of a corrected token; 1 is DPO on mean log-probs."""

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {side: names | {"corrected"} for side, names in super().needs.items()}

    def total(self, x_T: Tensor, batch: Batch) -> Tensor:
        """Means by weight."""
        return segment_mean(x_T, batch)

    def pairs(self, parts: Parts, signals: Signals) -> Pairs:
        """Pairs in which corrected tokens have gamma times their weight."""
        factor_T = {side: torch.where(signals[side]["corrected"] != 0, self.gamma, 1.0) for side in SIDES}
        return super().pairs({side: replace(parts[side], weight_T=parts[side].weight_T * factor_T[side]) for side in SIDES}, signals)


CASES = (
    Case(
        "gamma 3: chosen (0.2 + 3 * 0.3) / 2.5 and -0.4, rejected -1 and (3 * 0.3 + 0.5) / 4",
        DenseDPO(beta=2.0, gamma=3.0),
        {
            "chosen": EXAMPLE["chosen"] | {"corrected": [[0.0, 1.0, 1.0], [0.0]]},
            "rejected": EXAMPLE["rejected"] | {"corrected": [[1.0], [1.0, 0.0]]},
        },
        weights=WEIGHTS,
        loss=(softplus(-2 * (1.1 / 2.5 + 1)) + softplus(2 * (0.4 + 1.4 / 4))) / 2,
        logs={"chosen_reward": 1.1 / 2.5 - 0.4, "chosen_logp": ((-1 - 1.5 * 2) / 2.5 - 1.5) / 2},
    ),
)
