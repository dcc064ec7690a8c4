"""The strength of a preference: how far several reward models agree that the chosen answer is the better one, and what follows for the pair.

    d_i,m = r_m(x, y_w) - r_m(x, y_l),   mu_i = mean over m,   sigma_i = standard deviation over m

Wang et al. 2024, arXiv 2401.06080 (Secrets of RLHF, part II), section 2: labels of the weakest pairs are swapped, labels are softened, and the margin
that Bradley-Terry asks for is mu. The last two are options of the objective (`BradleyTerry(margin=1, soft=True)`) on columns that `with_strength`
writes. Its contrastive loss is `methods/objectives/contrastive_reward.py`, MetaRM the recipe `meta_rm`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tempering.errors import UserError
from tempering.types import Row, Segment


def strength(chosen_MN: np.ndarray, rejected_MN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mu [N], sigma [N]) of N pairs by the rewards of M models; sigma divides by M.

    Raises:
        UserError: shapes that differ, or no models.
    """
    chosen_MN, rejected_MN = (np.atleast_2d(np.asarray(x, dtype=np.float64)) for x in (chosen_MN, rejected_MN))
    if chosen_MN.shape != rejected_MN.shape or not chosen_MN.size:
        raise UserError(f"strength: rewards {list(chosen_MN.shape)} and {list(rejected_MN.shape)}; give [models, pairs] of both answers")
    delta_MN = chosen_MN - rejected_MN
    return delta_MN.mean(0), delta_MN.std(0)


def with_strength(rows: Sequence[Row], mu_N: Sequence[float] | np.ndarray, *, flip: float = 0.0, soft: float = 0.0) -> list[Row]:
    """Rows of pairs with a column "margin" (mu, turned round where the label is) and a column "soft" on both answers.

    Args:
        rows: parts "chosen" and "rejected".
        mu_N: the strength of each row.
        flip: share of the rows whose labels are swapped, those of the lowest strength; never one of a strength of 0 or more.
        soft: how unsure labels are: "soft" is 1 - soft for every pair.

    Raises:
        UserError: another number of strengths than rows, or a share outside 0 to 1.
    """
    mu_N = np.asarray(mu_N, dtype=np.float64)
    if mu_N.shape != (len(rows),):
        raise UserError(f"with_strength: {mu_N.size} strengths for {len(rows)} rows; give one for each")
    for name, share in (("flip", flip), ("soft", soft)):
        if not 0 <= share <= 1:
            raise UserError(f"with_strength: {name} is {share}; it is a share between 0 and 1")
    weakest = {int(i) for i in np.argsort(mu_N, kind="stable")[: round(flip * len(rows))] if mu_N[i] < 0}
    made = []
    for i, row in enumerate(rows):
        columns = {"margin": abs(float(mu_N[i])) if i in weakest else float(mu_N[i]), "soft": 1.0 - soft}
        sides = ("rejected", "chosen") if i in weakest else ("chosen", "rejected")
        made.append({**row, **{to: _with(row[side], columns) for to, side in zip(("chosen", "rejected"), sides, strict=True)}})
    return made


def _with(segments: Sequence[Segment], columns: dict[str, float]) -> tuple[Segment, ...]:
    return tuple(replace(segment, extras={**segment.extras, **columns}) for segment in segments)
