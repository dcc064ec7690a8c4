"""Do judges agree, beyond what chance would give? Cohen's kappa for two, Krippendorff's alpha for any number with gaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from tempering.errors import UserError


def cohen_kappa(a: Sequence[Any], b: Sequence[Any], *, weights: Literal["none", "linear", "quadratic"] = "none") -> float:
    """(observed - expected agreement) / (1 - expected) (Cohen 1960); weighted by the distance of sorted categories (Cohen 1968).

    Args:
        a, b: [N] the two judges' labels of the same items, without gaps.

    Raises:
        UserError: no items, lists of different length, or both judges gave one and the same label throughout, where kappa is 0 / 0.
    """
    import numpy as np

    if not a or len(a) != len(b):
        raise UserError(f"Cohen's kappa: expected two lists of labels of the same items, got {len(a)} and {len(b)}")
    names = sorted(set(a) | set(b))
    at = {name: i for i, name in enumerate(names)}
    table = np.zeros((len(names), len(names)))
    for x, y in zip(a, b, strict=True):
        table[at[x], at[y]] += 1 / len(a)
    far = np.abs(np.subtract.outer(np.arange(len(names)), np.arange(len(names)))).astype(float)
    cost = {"none": (far > 0).astype(float), "linear": far, "quadratic": far**2}[weights]
    expected = float((cost * np.outer(table.sum(1), table.sum(0))).sum())
    if expected == 0:
        raise UserError("Cohen's kappa: both judges gave the same one label to every item, so agreement by chance is complete and kappa undefined")
    return 1 - float((cost * table).sum()) / expected


def krippendorff_alpha(units: Sequence[Sequence[float | None]], *, level: Literal["nominal", "ordinal", "interval"] = "nominal") -> float:
    """1 - observed / expected disagreement over pairs of values inside units and over all (Krippendorff 2011, "Computing Krippendorff's
    Alpha-Reliability").

    Args:
        units: [N][judges] labels as numbers; None where a judge did not label. Units with fewer than two labels say nothing.
        level: what distance is: nominal labels differ or not; ordinal by ranks; interval by the square of the difference.

    Raises:
        UserError: no unit has two labels, or all labels are one, where alpha is 0 / 0.
    """
    import numpy as np

    rows = [[v for v in unit if v is not None] for unit in units]
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        raise UserError("Krippendorff's alpha: no unit has labels of two judges")
    names = sorted({v for row in rows for v in row})
    at = {name: i for i, name in enumerate(names)}
    # How often each pair of values occurs inside a unit, each unit's pairs weighing as many as it has labels.
    pairs = np.zeros((len(names), len(names)))
    for row in rows:
        counts = np.bincount([at[v] for v in row], minlength=len(names)).astype(float)
        pairs += (np.outer(counts, counts) - np.diag(counts)) / (len(row) - 1)
    totals = pairs.sum(1)
    if len(names) == 1:
        raise UserError("Krippendorff's alpha: every label is the same, so no disagreement could be expected and alpha is undefined")
    if level == "nominal":
        distance = 1.0 - np.eye(len(names))
    elif level == "ordinal":
        # Ranks' distance: the labels from one value to the other, half of each end.
        middle = np.cumsum(totals) - totals / 2
        distance = np.subtract.outer(middle, middle) ** 2
    else:
        distance = np.subtract.outer(np.asarray(names, dtype=float), np.asarray(names, dtype=float)) ** 2
    expected = float((np.outer(totals, totals) * distance).sum()) / (float(totals.sum()) - 1)
    return 1 - float((pairs * distance).sum()) / expected
