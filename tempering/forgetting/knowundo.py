"""KnowUnDo (Tian et al. 2024, S011, arXiv:2407.01920): facts about people of which some are private and must go while others about the same people
stay. Two numbers: unlearn success, 1 less the token accuracy on what goes, and retention success, the token accuracy on what stays.

Its files have the fields "text" and "labels", which `read` takes as a question and its answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tempering.errors import UserError
from tempering.forgetting import tofu
from tempering.items import mean
from tempering.types import Probe, Record, Scores

if TYPE_CHECKING:
    from tempering.methods.probes._answers import AnswersItem

UNLEARN, RETENTION = "knowundo_unlearn", "knowundo_retention"


def probes(unlearn: Iterable[Record], retention: Iterable[Record], most: int = 200) -> tuple[Probe, Probe]:
    """The token accuracy on what is to go, and on what is to stay.

    Args:
        unlearn, retention: rows of privacy_unlearn_val.jsonl and privacy_retention_val.jsonl.
        most: at most this many of each, evenly spread.

    Raises:
        UserError: one of them has no question with an answer.
    """
    going, staying = tofu.facts(unlearn, most), tofu.facts(retention, most)
    if not going or not staying:
        raise UserError(f"KnowUnDo: the {'retention' if going else 'unlearn'} rows hold no question with an answer; give its val files")
    unlearned, retained = of(going, staying)
    return unlearned, retained


def of(going: Sequence[AnswersItem], staying: Sequence[AnswersItem]) -> tuple[Probe, ...]:
    """The same of questions with answers, as every run that forgets measures them; none where a side has no questions."""
    from tempering.methods.probes.token_accuracy import TokenAccuracy

    if not going or not staying:
        return ()
    return TokenAccuracy(name=UNLEARN, items=tuple(going), side="target"), TokenAccuracy(name=RETENTION, items=tuple(staying))


def success(scores: Scores) -> dict[str, float]:
    """{"unlearn_success": ..., "retention_success": ...}, each between 0 and 1.

    Raises:
        UserError: the probes were not measured.
    """
    found = {p.probe: mean([item.score for item in p.items]) for p in scores.probes}
    if missing := {UNLEARN, RETENTION} - set(found):
        raise UserError(f"KnowUnDo: {', '.join(sorted(missing))} was not measured; the scores hold {', '.join(found) or 'nothing'}")
    return {"unlearn_success": 1 - found[UNLEARN], "retention_success": found[RETENTION]}
