"""The same loss of forgetting under a second-order optimizer keeps more of the rest (SOUL).

Jia et al. 2024 (arXiv 2404.18239) run GradDiff, preference optimisation and NPO under Sophia instead of AdamW and find that less of the model's
utility is lost for as much forgetting. Here it is GradDiff, in which the retain term has the paper's weight of 2 in both arms, on ten known people of
builtin:tiny. Rates are those of seed 9, which is none of those that count: 1e-3 for AdamW, the only one tried with this weight, and the better of
1e-4 and 3e-4 for Sophia. What is compared is the best difference between what stays and what goes, at a step that each arm chooses.
"""

from __future__ import annotations

from tempering.config import Optimizer
from tempering.methods.objectives.gradient_ascent import GradientAscent
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import tiny
from tempering.replications._trade import trade

CLAIM = Claim(
    method="sophia",
    catalogue=("S037",),
    title="GradDiff under Sophia against GradDiff under AdamW",
    claim="What stays and what goes come further apart under the second-order optimizer.",
    baseline="the same loss under AdamW",
    metric="best difference of accuracies",
    smallest_effect=0.05,
)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The best difference, and what it is made of."""
    lr = 3e-4 if arm == "method" else 1e-3
    optimizer = Optimizer(name="sophia", lr=lr) if arm == "method" else None
    return trade(tiny(), GradientAscent(retain_loss="nll", retain_weight=2.0), seed, scale, lr=lr, optimizer=optimizer)
