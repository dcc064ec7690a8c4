"""Sequence likelihood calibration from human feedback: a hinge on the difference of log-probs, and a likelihood term in place of a reference.

    loss = max(0, delta - log pi(y_w) + log pi(y_l)) - lambda * log pi(y_ref)

Zhao et al. 2023, arXiv 2305.10425, equation 4 (rank loss). y_ref is a fine-tuning target: here the chosen answer; `SLiC(sft=0) + c * NLL(part)` takes
another part. delta = 1 is the paper's; lambda is a choice of this project.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._paired import EXAMPLE, WEIGHTS, Paired, Pairs
from tempering.types import Context, Norm

FAMILY = "pairs"
PAPER = {"optimizer.lr": "1e-4 (section 3.2: T5 with Adafactor)"}


@dataclass(frozen=True)
class SLiC(Paired):
    """Hinge on log-probs without a reference."""

    beta: float = 1.0
    """Multiplies log-probs in what is logged only."""
    reference_free: bool = True
    delta: float = 1.0
    """The difference of log-probs that is enough."""
    sft: float = 0.5
    sft_norm: Norm = "segments"

    def loss(self, pair: Pairs, ctx: Context) -> Tensor:
        return F.relu(self.delta - (pair.chosen - pair.rejected))


CASES = (
    Case(
        "log-probs -2, -1.5 against -2, -1.3; the chosen answers' sums are learned",
        SLiC(delta=0.5, sft=0.25),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(0.5 + 0.7) / 2 + 0.25 * 3.5 / 2,
        gradient={"rejected/logp": [[0.5], [0.5, 0.5]], "chosen/logp": [[-0.625, -0.3125, 0.0], [-0.625]]},
        logs={"margin": -0.1, "chosen_reward": -1.75},
    ),
    Case(
        "far enough apart: nothing but likelihood",
        SLiC(),
        {"chosen": {"logp": [[-1.0, -0.5]]}, "rejected": {"logp": [[-3.0]]}},
        loss=0.5 * 1.5,
        gradient={"rejected/logp": [[0.0]]},
    ),
)
