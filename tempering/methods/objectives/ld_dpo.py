"""Length-desensitised DPO: tokens past the length of the shorter answer count for less, in the policy's log-probs and in the reference's.

    log pi(y) = sum_{t <= l} log p_t + a sum_{t > l} log p_t,   l = min(|y_w|, |y_l|);   then DPO

Liu et al. 2024, arXiv 2409.06411, equations 9 to 11; a = 0.5 for Llama 3 instruct models (0.3 for base ones). a = 1 is DPO.
Every loss on pairs takes this by its field `ld_alpha`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tempering.cases import Case
from tempering.methods.objectives._paired import EXAMPLE, WEIGHTS, softplus
from tempering.methods.objectives.dpo import DPO

FAMILY = "pairs"
PAPER = {"optimizer.lr": "5e-7 (section 4; recalled, not checked)"}


@dataclass(frozen=True)
class LDDPO(DPO):
    """DPO whose longer answer is heard only in part past the shorter one's end."""

    ld_alpha: float = 0.5


CASES = (
    Case(
        "the second token of the longer answer counts for a quarter; a token without weight has no place",
        LDDPO(beta=1.0, ld_alpha=0.25),
        EXAMPLE,
        # First pair: chosen 0.2 + 0.25 * 0.6 * 0.5, rejected -1.0. Second: chosen -0.4, rejected 0.3 + 0.25 * 0.5.
        weights=WEIGHTS,
        loss=(softplus(-0.275 - 1.0) + softplus(0.4 + 0.425)) / 2,
        logs={"chosen_reward": (0.275 - 0.4) / 2, "rejected_reward": (-1.0 + 0.425) / 2},
    ),
    Case(
        "nothing past the end at 0; what goes before is context",
        LDDPO(beta=1.0, ld_alpha=0.0),
        EXAMPLE,
        weights={"chosen": [[0.0, 0.5, 1.0], [1.0]], "rejected": [[1.0], [0.0, 1.0]]},
        loss=(softplus(-0.3 - 1.0) + softplus(0.4 + 0.5)) / 2,
    ),
    Case(
        "half by default",
        LDDPO(beta=1.0),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(softplus(-0.35 - 1.0) + softplus(0.4 + 0.55)) / 2,
    ),
)
