"""LiRA, the likelihood-ratio attack: is a model's confidence in a row that of models which were trained on it, or of models which were not?

Carlini et al. 2022 (arXiv:2112.03570). Shadow models are trained like the attacked one, each on other rows. The confidence in a row,
phi = log(p / (1 - p)), is nearly normal over such models, so two Gaussians are fitted for each row, to the shadow models that saw it and to those
that did not, and the attack's score is

    online     log N(phi; mean_in, sd_in) - log N(phi; mean_out, sd_out)
    offline    log P(Z <= phi),   Z ~ N(mean_out, sd_out)

The offline form asks only models that did not see the row. With few shadow models one standard deviation for all rows ("pooled") is steadier than
each row's own. The paper attacks classifiers; here p of a row is the geometric mean of its scored tokens' probabilities. The shadow models of tool
unlearning (S200) differ in the tools that they learned instead of the rows.

Scores are told as those of `membership`: AUC, the true-positive rate at 1% false positives, and for each row its share of the AUC. Of a model that
has forgotten, an AUC far below 0.5 is a trace as well: it finds the forgotten rows less likely than one that never saw them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from tempering.errors import UserError
from tempering.items import ProbeValue
from tempering.methods.probes.held_loss import HeldLoss
from tempering.methods.probes.membership import FALSE_POSITIVES, told
from tempering.types import ItemScore, Policy, ProbeScores

CATALOGUE = ("S200",)
Form = Literal["online", "offline"]
Variance = Literal["pooled", "each"]
SURE = 1e-7
"""Mean loss under which a model is as sure as can be told: there 1 - p has no digits left in float32."""


def confidence(loss: float) -> float:
    """log(p / (1 - p)) of p = exp(-loss)."""
    loss = max(loss, SURE)
    return -loss - math.log(-math.expm1(-loss))


def likelihood_ratios(scores: Sequence[float], shadows: Any, was_in: Any, form: Form = "online", variance: Variance = "pooled") -> list[float]:
    """The attack's score of each row, higher for "was trained on". Shadow models that say the same in and out give 0 in the online form.

    Args:
        scores: [N] confidences of the attacked model.
        shadows: [S, N] those of each shadow model.
        was_in: [S, N] whether it was trained on the row.
        variance: one for all rows, or each row's own.

    Raises:
        UserError: shapes differ, or no shadow model saw a row, or all did.
    """
    from scipy import stats

    x_N, x_SN, in_SN = np.asarray(scores, dtype=np.float64), np.asarray(shadows, dtype=np.float64), np.asarray(was_in, dtype=bool)
    if x_SN.shape != in_SN.shape or x_SN.ndim != 2 or x_SN.shape[1:] != x_N.shape:
        raise UserError(f"LiRA: {x_N.shape} scores, shadow scores {x_SN.shape}, membership {in_SN.shape}: give [N], [S, N] and [S, N]")
    if in_SN.all(0).any():
        raise UserError(f"LiRA: row {int(in_SN.all(0).argmax())} was seen by every shadow model, at least one must not have seen it")
    out_N, out_sd_N = _fitted(x_SN, ~in_SN, variance)
    if form == "offline":
        return stats.norm.logcdf(x_N, out_N, out_sd_N).tolist()
    if not in_SN.any(0).all():
        raise UserError(f"LiRA: row {int((~in_SN.any(0)).argmax())} was seen by no shadow model, which only the offline form allows")
    in_N, in_sd_N = _fitted(x_SN, in_SN, variance)
    return (stats.norm.logpdf(x_N, in_N, in_sd_N) - stats.norm.logpdf(x_N, out_N, out_sd_N)).tolist()


def _fitted(x_SN: np.ndarray, of_SN: np.ndarray, variance: Variance) -> tuple[np.ndarray, np.ndarray]:
    """(mean, standard deviation) of each row over the shadow models `of_SN`."""
    count_N = of_SN.sum(0)
    mean_N = np.where(of_SN, x_SN, 0).sum(0) / count_N
    square_SN = np.where(of_SN, (x_SN - mean_N) ** 2, 0)
    var_N = square_SN.sum(0) / count_N if variance == "each" else np.full_like(mean_N, square_SN.sum() / of_SN.sum())
    return mean_N, np.sqrt(np.maximum(var_N, 1e-12))


def row_losses(policy: Policy, rows: Any, part: str) -> list[float]:
    """The weighted loss per token of each row."""
    sums: dict[str, list[float]] = {f"{part}:{i}": [0.0, 0.0] for i in range(len(rows))}
    for item in HeldLoss(rows=rows, part=part)(policy).items:
        # A row of several segments has an item for each: part:3, part:3.2
        of = sums[item.id.split(".")[0]]
        of[0], of[1] = of[0] + item.extra["nll"], of[1] + item.extra["weight"]
    return [nll / weight for nll, weight in sums.values()]


class LiRA(ProbeValue):
    """AUC of telling rows that were trained on from others by likelihood ratios. Less is better: towards 0.5."""

    kind: Literal["lira"] = "lira"
    name: str = "lira"
    side: Literal["target", "keep"] = "target"
    rows: Any
    """A sequence of rows (`types.Row`): first the members, then the others."""
    part: str = "train"
    """Which part of a row is scored."""
    members: int = Field(ge=1)
    """How many of the rows are members."""
    shadows: Any
    """[S, N] the mean loss per token of each row under each shadow model (`row_losses`)."""
    was_in: Any
    """[S, N] whether the shadow model was trained on the row."""
    form: Form = "online"
    """The attack that goes by the probe's name; the other is told beside it as NAME.offline or NAME.online."""
    variance: Variance = "pooled"
    """One for all rows, steady with few shadow models, or each row's own."""

    @model_validator(mode="after")
    def _rows_fit(self) -> LiRA:
        if self.limit is not None:
            raise UserError(f"probe {self.name}: limit {self.limit}: a sample of the rows would not be the rows of the shadow models; leave it out")
        if self.members >= len(self.rows):
            raise UserError(f"probe {self.name}: all {len(self.rows)} rows are members; rows that were never trained on must follow them")
        return self

    def __call__(self, policy: Policy) -> ProbeScores:
        shadows = [[confidence(loss) for loss in of] for of in self.shadows]
        scores = [confidence(loss) for loss in row_losses(policy, self.rows, self.part)]
        forms = {form: likelihood_ratios(scores, shadows, self.was_in, form, self.variance) for form in ("online", "offline")}
        items = tuple(
            ItemScore(
                f"row:{i}", 0.0, extra={"member": float(i < self.members), "confidence": scores[i], **{name: of[i] for name, of in forms.items()}}
            )
            for i in range(len(scores))
        )
        others = len(items) - self.members
        note = f"{others} others: a false-positive rate of 1% allows none of them" if others < 1 / FALSE_POSITIVES else ""
        return told(ProbeScores(self.name, "AUC", "continuous", False, items, self.side, {}, note), self.form, self.name)

    def derived(self, scores: ProbeScores) -> tuple[ProbeScores, ...]:
        """The other form, from the same pass."""
        other: Form = "offline" if self.form == "online" else "online"
        return (told(scores, other, f"{self.name}.{other}"),)
