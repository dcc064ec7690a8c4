"""What is left of a text when it speaks of somebody else: rows beside which the same row stands with other names, token for token.

Liu et al. 2024 (S008, arXiv 2407.16997, section 3): a model that reads the text under another name says what does not depend on who it is about. Only
places where the original and all renamed texts have the same next token are compared, and the first token of the name itself where it comes up
again. Names are replaced as whole words, and each word of a name by the same word of the other where both have as many.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tempering.data.rows import RowReport, sft_row
from tempering.errors import UserError
from tempering.types import Message, Record, Row, Segment

if TYPE_CHECKING:
    from tempering.experiment import Experiment
    from tempering.held import Rows

PROMPT = "Complete the following passage about {name}.\n"
"""What stands before a renamed text, in the paper's words."""


def renamed(text: str, name: str, other: str) -> str:
    """The text with another name in the place of this one."""
    text = re.sub(rf"\b{re.escape(name)}\b", lambda _: other, text)
    words, others = name.split(), other.split()
    for word, instead in zip(words, others, strict=True) if len(words) == len(others) > 1 else ():
        if len(word) > 2:
            text = re.sub(rf"\b{re.escape(word)}\b", lambda _, instead=instead: instead, text)
    return text


def about(record: Record, name: str, other: str, prompted: bool) -> Record:
    """The record under another name, with the words of `PROMPT` in front of its first turn if `prompted`."""

    def turns(messages: Sequence[Message], front: str) -> tuple[Message, ...]:
        return tuple(replace(m, content=(front if i == 0 else "") + renamed(m.content, name, other)) for i, m in enumerate(messages))

    front = PROMPT.format(name=other) if prompted else ""
    responses = tuple(replace(r, messages=turns(r.messages, "" if record.prompt else front)) for r in record.responses)
    return replace(record, prompt=turns(record.prompt, front), responses=responses)


def counterfactual_row(
    record: Record,
    tokenizer: Any,
    *,
    names: Sequence[str],
    others: Sequence[str],
    prompted: bool,
    report: RowReport | None = None,
    **how: Any,
) -> Row | None:
    """{"forget": (s,), "fake0": (s0,), ...}: the row as it is and under each other name, scored where they can be compared, in the same order.

    Segments have the column "starts": 1 where the token is the first of the name. None where no name occurs or nothing can be compared.

    Args:
        names: of whom the record may be; the first that occurs in it is meant.
        others: names to put in its place.
        prompted: say in front whom the renamed text is about.
    """
    made = sft_row(record, tokenizer, report=report, **how)
    said = "\n".join(m.content for m in (*record.prompt, *(m for r in record.responses for m in r.messages)))
    name = next((n for n in names if re.search(rf"\b{re.escape(n)}\b", said)), None)
    if made is None or name is None or len(made["train"]) != 1:
        return None
    fakes = [sft_row(about(record, name, other, prompted), tokenizer, **{**how, "report": RowReport()}) for other in others]
    if any(fake is None or len(fake["train"]) != 1 for fake in fakes):
        return None
    found = compared(made["train"][0], [fake["train"][0] for fake in fakes if fake is not None])
    return None if found is None else {"forget": (found[0],), **{f"fake{i}": (s,) for i, s in enumerate(found[1])}}


def compared(own: Segment, fakes: Sequence[Segment]) -> tuple[Segment, list[Segment]] | None:
    """The segments scored at the places that correspond in all, with the column "starts"; None where there is none."""
    pairs = []
    for fake in fakes:
        blocks = difflib.SequenceMatcher(None, own.ids.tolist(), fake.ids.tolist(), autojunk=False).get_matching_blocks()
        pairs.append({a + k: b + k for a, b, size in blocks for k in range(size)})
    alike = [t for t in range(1, len(own.ids)) if all(t in pair for pair in pairs)]
    same, taken = set(alike), [{pair[t] for t in alike} for pair in pairs]
    begins = [t for t in range(1, len(own.ids)) if t not in same and all(t in pair or t - 1 in pair for pair in pairs)]
    # Who a text is about has to be said once.
    place = {t: [pair.get(t, pair.get(t - 1, -2) + 1) for pair in pairs] for t in (*alike, *begins[1:])}
    place = {t: at for t, at in place.items() if t in same or not any(k in of for k, of in zip(at, taken, strict=True))}
    kept = [
        t for t, at in sorted(place.items())
        if own.weight[t] and all(0 < k < len(fake.ids) and fake.weight[k] for k, fake in zip(at, fakes, strict=True))
    ]  # fmt: skip
    if not kept:
        return None

    def scored(segment: Segment, places: Sequence[int]) -> Segment:
        weight, starts = np.zeros(len(segment.ids), np.float32), np.zeros(len(segment.ids), np.float32)
        weight[list(places)] = own.weight[kept]
        starts[[k for k, t in zip(places, kept, strict=True) if t not in same]] = 1.0
        return replace(segment, weight=weight, extras={**segment.extras, "starts": starts})

    return scored(own, kept), [scored(fake, [place[t][i] for t in kept]) for i, fake in enumerate(fakes)]


def named_rows(run: Experiment, method: Any, forget: str, **how: Any) -> Rows:
    """The forget rows as `WHPCausal` wants them.

    Args:
        method: names the targets and others, and how many of these are taken.

    Raises:
        UserError: nobody is named, or fewer others than are wanted.
    """
    from tempering.worlds.demo import GOING, LEAVING
    from tempering.worlds.people import People

    people = {"builtin:people-forget": GOING, "builtin:authors-forget": LEAVING}.get(forget)
    names = list(method.names or (person.name for person in (people.people() if people else ())))
    if not names:
        raise UserError("whp_causal forgets what a text says of somebody: give the names with --method.names, one or more")
    others = list(method.others or (person.name for person in People(method.fakes, seed=1).people()))[: method.fakes]
    if len(others) < method.fakes:
        raise UserError(f"--method.others has {len(others)} names, and --method.fakes is {method.fakes}; give as many")
    return run.all_rows("forget", forget, counterfactual_row, names=names, others=others, prompted=method.prompted, **how)
