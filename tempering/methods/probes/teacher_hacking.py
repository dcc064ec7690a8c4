"""Teacher hacking: how far a student is from its teacher, and how far from what the teacher itself learned from.

    golden = KL(oracle || student),   proxy = KL(teacher || student),   per token

Tiapkin et al. 2025, arXiv 2502.02671: a teacher is an imperfect copy of what is true, so a student can come nearer to it and go away from the truth.
That is seen over a run: the proxy falls and the golden distance rises from its least value (`rise`). The paper sees it on a fixed set of answers and
not on answers that are drawn anew. The oracle is any model that one trusts more: a larger one, or the teacher's own teacher. A row's score is the
golden distance; both means over all tokens stand in the summary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tempering.items import ProbeValue, mean
from tempering.types import ItemScore, Policy, ProbeScores

CATALOGUE = ("S125",)


class TeacherHacking(ProbeValue):
    """Distance to an oracle on held rows, and beside it the distance to the teacher."""

    kind: Literal["teacher_hacking"] = "teacher_hacking"
    name: str = "teacher_hacking"
    side: Literal["target", "keep"] = "target"
    rows: Any
    """A sequence of rows (`types.Row`) with the part "train"."""
    oracle: Any
    """The model to be true to: a folder, hub id or builtin, or a policy; of the student's vocabulary."""
    teacher: Any
    """The model that it learns from, likewise."""

    def __call__(self, policy: Policy) -> ProbeScores:
        from tempering.measure import kls_of

        size = len(self.rows)
        count = size if self.limit is None else min(self.limit, size)
        segments = [segment for k in range(count) for segment in self.rows[k * size // count]["train"]]
        starts = [int(np.flatnonzero(segment.weight)[0]) for segment in segments]
        pairs = [(s.ids[:start].tolist(), s.ids[start:].tolist()) for s, start in zip(segments, starts, strict=True)]
        # Tokens without weight among those that have it do not count.
        scored = [s.weight[start:] != 0 for s, start in zip(segments, starts, strict=True)]
        golden, proxy = (
            [kl_T[keep] for kl_T, keep in zip(kls_of(_model(given), policy, pairs), scored, strict=True)] for given in (self.oracle, self.teacher)
        )
        found = [
            ItemScore(f"train:{i}", float(kl_T.mean()), policy.tokenizer.decode(prompt), expected=policy.tokenizer.decode(answer))
            for i, (kl_T, (prompt, answer)) in enumerate(zip(golden, pairs, strict=True))
        ]
        summary = {name: mean([kl for kl_T in of for kl in kl_T.tolist()]) for name, of in (("oracle", golden), ("teacher", proxy))}
        return ProbeScores(self.name, "KL from the oracle per token", "continuous", False, tuple(found), self.side, summary)


def rise(distances: Sequence[float]) -> float:
    """How far a distance has risen at the end of a run from its least value; 0 while it falls."""
    return distances[-1] - min(distances)


def _model(given: Any) -> Policy:
    from tempering import models

    return models.load(given, say=lambda _: None) if isinstance(given, str) else given
