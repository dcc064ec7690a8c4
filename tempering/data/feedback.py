"""Rows for losses that ask for more than answers: marks of an edit, answers under another prompt, labels of both sides, answers to other prompts.

Each maker takes a record as `rows.pair_row` does, so drops and cuts are counted in the same report.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tempering.data.convert import STEP_LABELS, STEPS
from tempering.data.edits import changed, corrected
from tempering.data.place import DataError
from tempering.data.rendering import prompt_ids, text_segment
from tempering.data.rows import RowReport, _done, _drop, best_response, pair_row, pairs, ranked_row, unpaired_row
from tempering.items import duel
from tempering.types import Message, Record, Response, Row, Segment

QUALITY = "Answer as well as you can: helpful, correct and complete."
"""What `quality_row` says before a conversation."""
YES = "yes"
"""What `options_row` asks to be said of an option."""


def corrected_row(record: Record, tokenizer: Any, **how: Any) -> Row | None:
    """A pair whose tokens have the column "corrected", for dense DPO."""
    made = pair_row(record, tokenizer, **how)
    return made and corrected(made)


def changed_row(record: Record, tokenizer: Any, **how: Any) -> Row | None:
    """A pair, and FIGA's part "train" made of it."""
    made = pair_row(record, tokenizer, **how)
    return made and {**made, **changed(made)}


def scored_pair_row(record: Record, tokenizer: Any, **how: Any) -> Row | None:
    """A pair whose answers both have a score.

    Raises:
        DataError: they do not.
    """
    made = pair_row(record, tokenizer, **how)
    if made and not all("score" in segments[0].extras for segments in made.values()):
        raise DataError(
            f"{record.source}: the answers have no scores, which this loss needs; use a prompt with rated responses, or another loss",
            code="no_score",
            source=record.source,
        )
    return made


def quality_row(record: Record, tokenizer: Any, *, report: RowReport | None = None, **how: Any) -> Row | None:
    """A pair, and the same answers as parts "chosen_quality" and "rejected_quality" under a prompt that asks for quality (`QUALITY`)."""
    first, *rest = record.prompt if record.prompt and record.prompt[0].role in ("system", "user") else (Message("user", ""), *record.prompt)
    asked = (replace(first, content=f"{QUALITY}\n\n{first.content}".strip()), *rest)
    again = pair_row(replace(record, prompt=asked), tokenizer, **how)
    if again is None and pair_row(record, tokenizer, **how) is not None:
        return _drop(record, "too long under the prompt for quality", report or RowReport())
    made = pair_row(record, tokenizer, report=report, **how)
    return made and again and {**made, **{f"{side}_quality": segments for side, segments in again.items()}}


def listed_row(record: Record, tokenizer: Any, **how: Any) -> Row | None:
    """{"responses": segments} with the extra "score"; a pair without scores is a list of two, scored 1 and 0."""
    found = pairs(record, "best_worst") if all(response.score is None for response in record.responses) else []
    if found:
        better, worse = (record.responses[i] for i in found[0])
        record = replace(record, responses=(replace(better, score=1.0), replace(worse, score=0.0)), better=())
    return ranked_row(record, tokenizer, **how)


def options_row(record: Record, tokenizer: Any, *, options: Sequence[str] = (), **how: Any) -> Row | None:
    """{"responses": segments}, one for each option: the prompt, then whether this option is the answer, and "yes", which alone is scored. The extra
    "score" is 1 for the best answer and 0 for the others.

    Args:
        options: the same for every record, for example the classes of a classification; by default the record's own answers.
    """
    if not record.prompt or record.prompt[-1].role != "user":
        raise DataError(f"{record.source}: the prompt must end with a turn of the user", code="no_question", source=record.source)
    texts = ["\n".join(message.content for message in response.messages) for response in record.responses]
    right = texts[best_response(record)]
    if options and right not in options:
        raise DataError(
            f"{record.source}: the answer {right!r} is not among the options {', '.join(options)}", code="no_option", source=record.source
        )
    last = record.prompt[-1]
    responses = []
    for option in dict.fromkeys(options or texts):
        asked = replace(last, content=f"{last.content}\n\nIs the answer: {option}")
        made = Response((asked, Message("assistant", YES)), score=float(option == right))
        responses.append(made)
    return ranked_row(replace(record, prompt=record.prompt[:-1], responses=tuple(responses), better=()), tokenizer, **how)


def rewarded_row(record: Record, tokenizer: Any, **how: Any) -> Row | None:
    """A pair, and both its answers as the part "train" too, for reward models that learn each answer's own rating."""
    made = pair_row(record, tokenizer, **how)
    return made and {**made, "train": (*made["chosen"], *made["rejected"])}


def stepped_row(record: Record, tokenizer: Any, *, report: RowReport | None = None, **how: Any) -> Row | None:
    """{"train": segments} with the column "label" [T]: a labelled step's at its last token, which alone is scored, or one outcome at every token of a
    labelled answer (of both answers of a pair).

    Raises:
        DataError: there are no labels, or the template does not write the steps as they are.
    """
    report = report or RowReport()
    if STEP_LABELS not in record.tags:
        made = labelled_row(record, tokenizer, report=report, **how)
        whole = made["train"] if made else ()
        spread = (replace(s, extras={**s.extras, "label": np.full(len(s.ids), s.extras["label"], np.float32)}) for s in whole)
        return made and {"train": tuple(spread)}
    made = unpaired_row(record, tokenizer, label=True, report=report, **how)
    if made is None:
        return None
    (segment,) = made["train"]
    weight, label = np.zeros(len(segment.ids), np.float32), np.zeros(len(segment.ids), np.float32)
    ends = _step_ends(record, segment, tokenizer)
    weight[ends], label[ends] = 1.0, record.tags[STEP_LABELS]
    report.trained_tokens += len(ends) - int(np.count_nonzero(segment.weight))
    return {"train": (replace(segment, weight=weight, extras={**segment.extras, "label": label}),)}


def _step_ends(record: Record, segment: Segment, tokenizer: Any) -> list[int]:
    """Where the last token of each step stands: the first with which the whole of it has been said, white space apart."""
    start = int(np.flatnonzero(segment.weight)[0])

    def said(count: int) -> str:
        # A character whose bytes are not all there yet does not count.
        return "".join(tokenizer.decode(segment.ids[start : start + count]).rstrip("\ufffd").split())

    steps = ["".join(step.split()) for step in record.tags[STEPS]]
    begins = said(len(segment.ids) - start).find("".join(steps))
    if begins < 0:
        raise DataError(f"{record.source}: the chat template does not write the steps as they are; change them", code="steps", source=record.source)
    lengths = np.cumsum([len(step) for step in steps]) + begins
    counts = range(len(segment.ids) - start + 1)
    return [start - 1 + bisect_left(counts, int(length), key=lambda count: len(said(count))) for length in lengths]


def class_of(record: Record, field: str) -> str:
    """A record's class: its field of that name, or else its one answer.

    Raises:
        DataError: it has neither.
    """
    if field in record.tags:
        return str(record.tags[field])
    if record.prompt and len(record.responses) == 1:
        return record.responses[0].messages[-1].content.strip()
    raise DataError(
        f"{record.source}: has no field {field!r} that says its class; name it by --field, or give the class as the answer",
        code="no_label",
        source=record.source,
    )


def classed_row(
    record: Record, tokenizer: Any, *, classes: Sequence[str], field: str, max_length: int | None = None, report: RowReport | None = None
) -> Row | None:
    """{"train": (segment,)} of a text or a prompt, scored at its last token alone, with its class's place in `classes` as the column "label".

    None where it is too long or its class is not among them (counted in `report`).
    """
    report, name = report or RowReport(), class_of(record, field)
    text = not record.prompt
    turns = record.responses[0].messages if text else record.prompt
    ids = np.asarray(text_segment(tokenizer, "".join(m.content for m in turns)).ids if text else prompt_ids(tokenizer, turns), np.int32)
    if name not in classes or len(ids) < 2 or (max_length is not None and len(ids) > max_length):
        return _drop(record, "too long" if name in classes else "a class that is not among those to learn", report)
    weight = (np.arange(len(ids)) == len(ids) - 1).astype(np.float32)
    return _done({"train": (Segment(ids, weight, {"label": float(classes.index(name))}, record.source),)}, record, report)


def duel_row(record: Record, tokenizer: Any, *, max_length: int | None = None, report: RowReport | None = None) -> Row | None:
    """{"chosen": (segment,), "rejected": (segment,)}: both of a pair in one prompt, the better one first, and second; the last token counts."""
    report, found = report or RowReport(), pairs(record, "best_worst")
    if not found:
        raise DataError(f"{record.source}: has no preferred and rejected answer", code="no_pair", source=record.source)
    better, worse = ("\n\n".join(m.content for m in record.responses[i].messages) for i in found[0])
    row = {}
    for side, order in (("chosen", (better, worse)), ("rejected", (worse, better))):
        ids = np.asarray(prompt_ids(tokenizer, duel(record.prompt, *order)), np.int32)
        row[side] = (Segment(ids, (np.arange(len(ids)) == len(ids) - 1).astype(np.float32), {}, record.source),)
    if better == worse:
        return _drop(record, "chosen and rejected are the same", report)
    if max_length is not None and max(len(side[0].ids) for side in row.values()) > max_length:
        return _drop(record, "too long", report)
    return _done(row, record, report)


class Again(Sequence[Row]):
    """Rows whose pairs stand there twice, as parts "chosen_again" and "rejected_again" too: two passes under dropout."""

    def __init__(self, rows: Any, held: bool) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: Any) -> Any:
        row = self.rows[i]
        return {**row, "chosen_again": row["chosen"], "rejected_again": row["rejected"]}


def labelled_row(record: Record, tokenizer: Any, **how: Any) -> Row | None:
    """{"train": segments} with the extra "label": the labelled answer, or both answers of a pair; None if one was dropped."""
    found = pairs(record, "best_worst") if all(response.label is None for response in record.responses) else []
    if not found:
        return unpaired_row(record, tokenizer, **how)
    sides = [unpaired_row(record, tokenizer, response=i, label=label, **how) for i, label in zip(found[0], (True, False), strict=True)]
    return None if None in sides else {"train": tuple(s for side in sides if side is not None for s in side["train"])}


class Numbered(Sequence[Row]):
    """Rows whose chosen answer has the column "index": the row's place, or -1 for all where they are held out."""

    def __init__(self, rows: Any, held: bool) -> None:
        self.rows, self.held = rows, held

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: Any) -> Any:
        row = self.rows[i]
        (chosen,) = row["chosen"]
        return {**row, "chosen": (replace(chosen, extras={**chosen.extras, "index": -1.0 if self.held else float(i)}),)}


class Mismatched(Sequence[Row]):
    """Rows with the part "kl" beside "train": each prompt with an answer that was given to another one, cut at `max_length`.

    Row i's answers come from the next row, in the order of `rows`, that has another prompt; so they do not depend on who stands in a batch. Where all
    prompts are the same they are its own.
    """

    def __init__(self, rows: Any, max_length: int) -> None:
        self.rows, self.max_length = rows, max_length
        self.indices: Sequence[int] = rows.indices
        self.fingerprint = f"{rows.fingerprint}+kl{max_length}"
        trains = [row["train"] for row in rows]
        prompts = [_prompt(segments[0]).tobytes() for segments in trains]
        self.partner = _next_other(prompts)
        matched = [pair for own, other in zip(trains, self.partner, strict=True) for pair in self._matched(own, trains[other])]
        self.cut = sum(len(_prompt(a)) + len(b.ids) - len(_prompt(b)) > max_length for a, b in matched)
        """Answers that lose tokens at their end."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: Any) -> Any:
        own, other = self.rows[i], self.rows[self.partner[i]]
        return {**own, "kl": tuple(self._mixed(a, b) for a, b in self._matched(own["train"], other["train"]))}

    def sentence(self) -> str:
        """What was made, in words."""
        alone = sum(partner == i for i, partner in enumerate(self.partner))
        said = f"{len(self)} prompts with answers to other prompts, {self.cut} of them cut at max_length {self.max_length}"
        return said + (f"; {alone} with their own, because no other prompt is there" if alone else "")

    @staticmethod
    def _matched(own: Sequence[Segment], other: Sequence[Segment]) -> list[tuple[Segment, Segment]]:
        return [(segment, other[j % len(other)]) for j, segment in enumerate(own)]

    def _mixed(self, mine: Segment, other: Segment) -> Segment:
        mine_end, other_end = len(_prompt(mine)), len(_prompt(other))
        ids = np.concatenate([mine.ids[:mine_end], other.ids[other_end:]])[: self.max_length]
        weight = np.concatenate([mine.weight[:mine_end], other.weight[other_end:]])[: self.max_length]
        return Segment(ids, weight, source=mine.source)


def _next_other(prompts: Sequence[bytes]) -> list[int]:
    """For each place the next one, around the end, that holds something else; itself where none does."""
    n = len(prompts)
    found = list(range(n))
    # Twice around from the end: a run of equal prompts takes the partner of its last one.
    for i in [*range(n - 1, -1, -1)] * 2:
        after = (i + 1) % n
        found[i] = after if prompts[after] != prompts[i] else found[after] if found[after] != after else i
    return found


def _prompt(segment: Segment) -> np.ndarray:
    """The tokens before the first that is trained."""
    return segment.ids[: int(np.flatnonzero(segment.weight)[0])]
