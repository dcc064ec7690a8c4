"""Quality-aware self-refinement: DPO whose margin is asked for in proportion to how much better the policy itself finds the chosen answer.

    loss = - log sigmoid( margin - lambda * D ),   D = [ log pi(y_w | p, x) - log pi(y_l | p, x) ], without gradient

Yu et al. 2024, arXiv 2405.21040 (S168): Sr-DPO, and Sr-IPO, whose target moves alike: (delta - 1/(2 beta) - lambda * D)^2. p is a prompt that asks
for quality; the answers under it are parts "chosen_quality" and "rejected_quality". The paper's exact normalisation of D and its lambda could not be
checked: D is a difference of sums here, and lambda a choice of this project.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from tempering.cases import Case
from tempering.errors import UserError
from tempering.methods.objectives._paired import EXAMPLE, SIDES, WEIGHTS, Pairs, softplus
from tempering.methods.objectives.dpo import DPO
from tempering.types import Context, Parts, Signals

FAMILY = "pairs"
CATALOGUE = ("S168",)
PAPER = {"optimizer.lr": "1e-6 (DPO's; not checked)"}


@dataclass(frozen=True)
class SrDPO(DPO):
    """DPO or IPO with the policy's own estimate of a pair's difference in quality."""

    form: Literal["sigmoid", "squared"] = "sigmoid"
    """Sr-DPO or Sr-IPO."""
    refine: float = 0.1
    """The paper's lambda; 0 is DPO (IPO)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in ("sigmoid", "squared"):
            raise UserError(f"form is {self.form!r}; it is 'sigmoid' (Sr-DPO) or 'squared' (Sr-IPO)")

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {**super().needs, **{f"{side}_quality": frozenset({"logp"}) for side in SIDES}}

    def pairs(self, parts: Parts, signals: Signals) -> Pairs:
        """Pairs with their offsets, which carry no gradient."""
        quality = {side: self.total(signals[f"{side}_quality"]["logp"], parts[f"{side}_quality"]).detach() for side in SIDES}
        return replace(super().pairs(parts, signals), offset=self.refine * (quality["chosen"] - quality["rejected"]))

    def loss(self, pair: Pairs, ctx: Context) -> Tensor:
        return (self.delta(pair) - 1 / (2 * self.beta) - pair.offset) ** 2 if self.form == "squared" else super().loss(pair, ctx)


# Log-probs under the quality prompt: -1.5, -2 against -2.5, -1.2.
_QUALITY = {
    "chosen_quality": {"logp": [[-1.0, -1.0, -3.0], [-2.0]]},
    "rejected_quality": {"logp": [[-2.5], [-0.5, -0.7]]},
}
_WEIGHTS = WEIGHTS | {"chosen_quality": WEIGHTS["chosen"], "rejected_quality": WEIGHTS["rejected"]}

CASES = (
    Case(
        "differences in quality 1 and -0.8",
        SrDPO(beta=0.5, refine=0.3),
        EXAMPLE | _QUALITY,
        weights=_WEIGHTS,
        loss=(softplus(0.3 - 0.75) + softplus(0.6 - 0.24)) / 2,
        gradient={"chosen_quality/logp": [[0.0, 0.0, 0.0], [0.0]], "rejected_quality/logp": [[0.0], [0.0, 0.0]]},
    ),
    Case(
        "squared, target 2",
        SrDPO(beta=0.25, refine=0.3, form="squared"),
        EXAMPLE | _QUALITY,
        weights=_WEIGHTS,
        loss=((1.5 - 2 - 0.3) ** 2 + (-1.2 - 2 + 0.24) ** 2) / 2,
    ),
)
