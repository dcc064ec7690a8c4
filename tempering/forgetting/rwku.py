"""RWKU (Jin et al. 2024, arXiv:2406.10890): unlearning a real person by name, measured by ROUGE-L recall of short answers at three levels: blanks,
questions, and adversarial questions by kind of attack; the first two also about neighbours, which are to stay.

The probes are made of the published files, whose rows say their level and type. How a question is introduced is worded here, so figures can be
compared between models measured here, not with published ones to the digit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from tempering.errors import UserError
from tempering.making import best, spoken
from tempering.types import Probe, Record

ANSWER = 30
"""New tokens of an answer, as released."""
ASKED = {"1": "Fill in the blank.", "2": "Answer in a few words.", "3": "Answer in a few words."}
LEVELS = {"1": "blank", "2": "question", "3": "attack"}


def probes(records: Iterable[Record], side: Literal["target", "keep"], most: int = 200, subject: str | None = None) -> tuple[Probe, ...]:
    """A probe for each level, and for each kind of attack of the third: "forget_blank", "neighbor_question", "forget_attack: role play".

    Args:
        records: rows of RWKU's probe files (fields query, answer, level, type).
        side: "target" for questions about the person that is to go, "keep" for neighbours.
        most: at most this many questions of each, evenly spread.
        subject: only what is asked about this person.

    Raises:
        UserError: a row without a level from 1 to 3, or none about the subject.
    """
    from tempering.methods.probes._answers import AnswersItem
    from tempering.methods.probes.rouge import Rouge

    sets: dict[str, list[AnswersItem]] = {}
    for record in records:
        if subject is not None and record.tags.get("subject") != subject:
            continue
        level = str(record.tags.get("level", ""))
        if level not in LEVELS:
            raise UserError(f"{record.source}: field 'level' is {level!r}, RWKU's probes have 1, 2 or 3")
        name = f"{'forget' if side == 'target' else 'neighbor'}_{LEVELS[level]}"
        # The kind in brackets is the language of one kind of attack.
        name += f": {str(record.tags.get('type', 'other')).partition(' (')[0]}" if level == "3" else ""
        asked = f"{ASKED[level]}\n{spoken(record.prompt)}"
        of = sets.setdefault(name, [])
        of.append(AnswersItem(id=f"{name}:{len(of)}", prompt=(("user", asked),), answer=spoken(best(record).messages)))
    if not sets:
        raise UserError(f"RWKU: there is no question{'' if subject is None else f' about {subject!r}'}")
    found: list[Probe] = []
    for name, items in sorted(sets.items()):
        chosen = items if len(items) <= most else [items[i * len(items) // most] for i in range(most)]
        found.append(Rouge(name=name, items=tuple(chosen), max_new_tokens=ANSWER, stop=("\n",), side=side))
    return tuple(found)
