"""What an edit changed, token by token: marks for losses that look at the difference between an answer and its revision.

`corrected` adds the column of dense DPO to a pair; `changed` makes FIGA's row of one. A shortest edit script is found by Levenshtein's recursion; of
equally short ones, the one that keeps or substitutes tokens as late as possible is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tempering.types import Row, Segment


@dataclass(frozen=True)
class Edit:
    """A shortest edit script: `went` marks old tokens that were deleted or substituted, `came` new ones that were inserted or substituted."""

    went: np.ndarray
    """bool [T_old]"""
    came: np.ndarray
    """bool [T_new]"""
    length: int
    """Number of insertions, deletions and substitutions."""


def edit(old: np.ndarray, new: np.ndarray) -> Edit:
    """A shortest edit script from one sequence of token ids to another: memory and time grow with the product of their lengths."""
    distance = np.empty((len(old) + 1, len(new) + 1), dtype=np.int32)
    place = np.arange(len(new) + 1)
    distance[0] = place
    for i, token in enumerate(old, start=1):
        row = distance[i - 1] + 1
        row[1:] = np.minimum(row[1:], distance[i - 1, :-1] + (new != token))
        # An insertion costs one per step to the right of the best place to begin.
        distance[i] = np.minimum.accumulate(row - place) + place
    went, came = np.zeros(len(old), dtype=bool), np.zeros(len(new), dtype=bool)
    i, j = len(old), len(new)
    while i or j:
        if i and j and distance[i, j] == distance[i - 1, j - 1] + (old[i - 1] != new[j - 1]):
            i, j = i - 1, j - 1
            went[i] = came[j] = old[i] != new[j]
        elif i and distance[i, j] == distance[i - 1, j] + 1:
            i -= 1
            went[i] = True
        else:
            j -= 1
            came[j] = True
    return Edit(went, came, int(distance[-1, -1]))


def corrected(row: Row) -> Row:
    """A pair whose chosen answer corrects the rejected one, with a column "corrected" on both: 1 on changed answer tokens (dense DPO, S249)."""
    (chosen,), (rejected,) = row["chosen"], row["rejected"]
    came, went = _marks(chosen, rejected)
    return {
        "chosen": (Segment(chosen.ids, chosen.weight, {**chosen.extras, "corrected": came}, chosen.source),),
        "rejected": (Segment(rejected.ids, rejected.weight, {**rejected.extras, "corrected": went}, rejected.source),),
    }


def changed(row: Row) -> Row:
    """FIGA's row (S151) of a pair whose chosen answer revises the rejected one: part "train" with both, weight on changed tokens only.

    The revision's last scored token, its end, counts as changed. The column "revised" is 1 on the revision and 0 on the first answer.
    """
    (chosen,), (rejected,) = row["chosen"], row["rejected"]
    came, went = _marks(chosen, rejected)
    came[np.flatnonzero(chosen.weight)[-1:]] = 1.0
    sides = ((chosen, came, 1.0), (rejected, went, 0.0))
    return {
        "train": tuple(Segment(s.ids, s.weight * mark, {"revised": np.full(len(s.ids), is_new, np.float32)}, s.source) for s, mark, is_new in sides)
    }


def _marks(new: Segment, old: Segment) -> tuple[np.ndarray, np.ndarray]:
    """1 where an answer token came or went, 0 elsewhere; float32, as long as the segments."""
    scored_new, scored_old = new.weight != 0, old.weight != 0
    found = edit(old.ids[scored_old], new.ids[scored_new])
    came, went = np.zeros(len(new.ids), dtype=np.float32), np.zeros(len(old.ids), dtype=np.float32)
    came[scored_new], went[scored_old] = found.came, found.went
    return came, went
