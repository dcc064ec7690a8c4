"""Answers that are out of form whatever they say: cut off by their budget, saying one thing over and over, or made of bytes that are no text.

T1 (Hou et al. 2025, arXiv 2501.11651) takes 1 from such answers. How the paper recognises them is not known here. The rule is: a stretch of at most
`LONGEST` tokens that stands at least `TIMES` times in a row and fills at least `LEAST` tokens by it, or the sign of a byte that could not be read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tempering.rollouts.types import Trajectory

TIMES, LEAST, LONGEST = 4, 16, 64
UNREADABLE = "\ufffd"


def repeats(ids: Sequence[int]) -> bool:
    """Whether some stretch of tokens stands so often in a row."""
    ids_T = np.asarray(ids)
    for period in range(1, min(LONGEST, len(ids_T) // TIMES) + 1):
        same_T = ids_T[period:] == ids_T[:-period]
        # A stretch of n tokens that repeats k times agrees with itself, one period on, in (k - 1) n places in a row.
        wanted = max(TIMES * period, LEAST) - period
        ends = np.flatnonzero(np.concatenate([[True], ~same_T, [True]]))
        if np.diff(ends).max() - 1 >= wanted:
            return True
    return False


def spoilt(played: Sequence[Trajectory]) -> np.ndarray:
    """1 where some turn of a conversation is out of form, else 0 [N]."""
    return np.array([float(any(not t.finished or UNREADABLE in t.text or repeats(t.ids) for t in one.turns)) for one in played])
