"""Records to rows: the views of a record that methods train on.

`sft_row` gives {"train": ...}, `pair_row` {"chosen": ..., "rejected": ...}, `unpaired_row` {"train": ...} with a "label" extra, `text_row` windows of
a plain text. An answer is never cut silently: what is too long is handled as `truncate` says, and every drop and cut is counted, by reason and with
the first sources, in a `RowReport`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from tempering.data.convert import UNTRAINED
from tempering.data.place import DataError
from tempering.data.rendering import Boundary, render, segment, text_segment
from tempering.errors import UserError
from tempering.types import Message, Record, Response, Row, Segment

TrainOn = Literal["assistant", "last", "each", "all"]
"""Assistant turns of the response; only the last of them; each of them in a segment of its own (exact for templates that rewrite earlier turns);
every token of the rendering."""
Truncate = Literal["refuse_answer", "drop", "right", "left"]
"""Over-long rows: "refuse_answer" cuts context at the right end and drops the row if any trained token would go; "drop" drops every over-long row;
"right" cuts at the right end, answers too; "left" cuts context at the left end (BOS stays) and drops the row if trained tokens would go."""
SHOWN = 5


@dataclass
class RowReport:
    """What happened to records on their way to rows."""

    records: int = 0
    kept: int = 0
    segments: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)
    """"context" and "answer": segments that lost tokens."""
    sources: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> the first sources."""

    def note(self, kind: Counter[str], reason: str, source: str) -> None:
        kind[reason] += 1
        first = self.sources.setdefault(reason, [])
        if len(first) < SHOWN:
            first.append(source)

    def sentence(self) -> str:
        """One sentence for people: how many rows, what was dropped or cut and where first."""
        text = f"{self.kept} of {self.records} records, {self.tokens} tokens, {self.trained_tokens} of them trained"
        for what, counts in (("dropped", self.dropped), ("cut", self.cut)):
            for reason, n in sorted(counts.items()):
                text += f"; {n} {what} ({reason}: {', '.join(self.sources[reason])}{', ...' if n > SHOWN else ''})"
        return text + "."


def sft_row(
    record: Record,
    tokenizer: Any,
    *,
    train_on: TrainOn = "assistant",
    max_length: int | None = None,
    truncate: Truncate = "refuse_answer",
    boundary: Boundary = "refuse",
    report: RowReport | None = None,
) -> Row | None:
    """{"train": (segment,)} of the record's (best) response, or None if the row was dropped (counted in `report`).

    Weights are those of the mask times `Response.weight`. A text record gives its windows of `max_length` tokens. A record whose only response is
    labelled undesirable is dropped. Raises DataError where the mask is ambiguous or the record has no response.
    """
    report = _begin(report, max_length, truncate)
    if _is_text(record):
        return _done({"train": _windows(record, tokenizer, max_length)}, record, report)
    index = best_response(record)
    response = record.responses[index]
    if response.label is False:
        return _drop(record, "undesirable", report)
    start, turns = len(record.prompt), (*record.prompt, *response.messages)
    untrained = set(record.tags.get(UNTRAINED, ()))
    mine = [i for i in range(start, len(turns)) if turns[i].role == "assistant" and i not in untrained]
    options = {"tools": record.tools, "source": record.source, "boundary": boundary}
    if train_on == "each":
        found = [render(tokenizer, turns[: i + 1], trained=lambda j, i=i: j == i, **options) for i in mine]
    elif train_on == "all":
        found = [render(tokenizer, turns, trained=lambda j: True, **options)]
    elif train_on in ("assistant", "last"):
        wanted = set(mine if train_on == "assistant" else mine[-1:])
        found = [render(tokenizer, turns, trained=lambda j: j in wanted, **options)]
    else:
        raise UserError(f'train_on is "{train_on}", but must be one of: {", ".join(get_args(TrainOn))}.')
    kept = [s for s in (_fit(_weighted(s, response.weight), tokenizer, max_length, truncate, report) for s in found) if s is not None]
    if kept and len(kept) < len(found):
        report.note(report.cut, "a turn that is too long left out", record.source)
    return _done({"train": tuple(kept)}, record, report) if kept else _drop(record, "too long" if found else "nothing trained", report)


def pair_row(
    record: Record,
    tokenizer: Any,
    *,
    pair: tuple[int, int] | None = None,
    max_length: int | None = None,
    truncate: Truncate = "refuse_answer",
    boundary: Boundary = "refuse",
    report: RowReport | None = None,
) -> Row | None:
    """{"chosen": (segment,), "rejected": (segment,)} of one pair of responses, or None if either side was dropped.

    `pair` is (better, worse); without it the record's one pair, else the best and the worst by score. Scores become the extra "score", and
    where both sides have one, their difference the extra "margin" of both.
    """
    report = _begin(report, max_length, truncate)
    found = [pair] if pair is not None else pairs(record, "best_worst")
    if not found:
        raise DataError(
            f"{record.source}: has no preferred and rejected answer; use pairs (chosen/rejected), answers with different scores, or another method",
            code="no_pair",
            source=record.source,
        )
    sides = []
    for index in found[0]:
        side = _response_segment(record, record.responses[index], tokenizer, boundary)
        sides.append(_fit(side, tokenizer, max_length, truncate, report))
    if sides[0] is None or sides[1] is None:
        return _drop(record, "too long", report)
    if np.array_equal(sides[0].ids, sides[1].ids):
        return _drop(record, "chosen and rejected are the same", report)
    scores = [record.responses[index].score for index in found[0]]
    if scores[0] is not None and scores[1] is not None:
        sides = [Segment(s.ids, s.weight, {**s.extras, "margin": scores[0] - scores[1]}, s.source) for s in sides if s is not None]
    return _done({"chosen": (sides[0],), "rejected": (sides[1],)}, record, report)


def unpaired_row(
    record: Record,
    tokenizer: Any,
    *,
    response: int = 0,
    label: bool | None = None,
    max_length: int | None = None,
    truncate: Truncate = "refuse_answer",
    boundary: Boundary = "refuse",
    report: RowReport | None = None,
) -> Row | None:
    """{"train": (segment,)} with the extra "label" (1.0 desirable, 0.0 not) of one response, or None if it was dropped.

    `label` overrides the data's, to take a pair apart: response 0 as True, response 1 as False.
    """
    report = _begin(report, max_length, truncate)
    chosen = _responses(record)[response]
    label = chosen.label if label is None else label
    if label is None:
        raise DataError(f"{record.source}: the answer has no label; use data with label true/false, or pairs", code="no_label", source=record.source)
    made = _fit(_response_segment(record, chosen, tokenizer, boundary, {"label": float(label)}), tokenizer, max_length, truncate, report)
    return _drop(record, "too long", report) if made is None else _done({"train": (made,)}, record, report)


def ranked_row(
    record: Record,
    tokenizer: Any,
    *,
    max_length: int | None = None,
    truncate: Truncate = "refuse_answer",
    boundary: Boundary = "refuse",
    report: RowReport | None = None,
) -> Row | None:
    """{"responses": segments} of all rated responses, each with the extra "score", or None where fewer than two are left (counted in `report`)."""
    report = _begin(report, max_length, truncate)
    rated = [r for r in _responses(record) if r.score is not None]
    made = [_fit(_response_segment(record, r, tokenizer, boundary), tokenizer, max_length, truncate, report) for r in rated]
    kept = tuple(s for s in made if s is not None)
    if len(kept) < 2:
        return _drop(record, "too long" if len(rated) > 1 else "fewer than two rated answers", report)
    return _done({"responses": kept}, record, report)


def text_row(record: Record, tokenizer: Any, *, max_length: int | None = None, report: RowReport | None = None) -> Row:
    """{"train": windows} of a plain text, all in one row (an empty row if nothing can be trained). `text_rows` gives each window a row."""
    report = _begin(report, max_length, "drop")
    if not _is_text(record):
        raise DataError(f"{record.source}: is no plain text; read it with shape=text, or use another row", code="no_text", source=record.source)
    return _done({"train": _windows(record, tokenizer, max_length)}, record, report) or {}


def _windows(record: Record, tokenizer: Any, max_length: int | None) -> tuple[Segment, ...]:
    text = "".join(m.content for m in (*record.prompt, *record.responses[0].messages))
    whole = text_segment(
        tokenizer,
        text,
        begins=record.tags.get("begins", True),
        ends=record.tags.get("ends", True),
        source=record.source,
        weight=record.responses[0].weight,
    )
    length = max_length or max(len(whole.ids), 2)
    # each window begins with the last token of the one before, as context: so every token but the first is trained exactly once
    starts = range(0, max(len(whole.ids) - 1, 1), length - 1)
    return tuple(segment(whole.ids[s : s + length], whole.weight[s : s + length], record.source) for s in starts)


def text_rows(record: Record, tokenizer: Any, *, max_length: int | None = None, report: RowReport | None = None) -> Iterator[Row]:
    """The windows of a plain text, each as a row."""
    for window in text_row(record, tokenizer, max_length=max_length, report=report).get("train", ()):
        yield {"train": (window,)}


def best_response(record: Record) -> int:
    """Index of the response to imitate: the only one, the one that no other beats, or the one with the highest score.

    Raises DataError for a record without a response, and where several are equally good.
    """
    responses = _responses(record)
    if len(responses) == 1:
        return 0
    if record.better:
        top = sorted(set(range(len(responses))) - {j for _, j in record.better})
    else:
        scores = [r.score for r in responses]
        known = [s for s in scores if s is not None]
        top = [i for i, s in enumerate(scores) if known and s == max(known)][:1]
    if len(top) != 1:
        raise DataError(
            f"{record.source}: has {len(responses)} answers and none is best; give scores or chosen/rejected, or one answer",
            code="no_best",
            source=record.source,
        )
    return top[0]


def pairs(record: Record, how: Literal["all", "best_worst"] = "all") -> list[tuple[int, int]]:
    """Pairs (better, worse) of a record: the data's own, else by score; `best_worst` keeps one, with the widest margin."""
    found = list(record.better)
    scores = [r.score for r in record.responses]
    if not found:
        found = [(i, j) for i, a in enumerate(scores) for j, b in enumerate(scores) if a is not None and b is not None and a > b]
    if how == "best_worst" and len(found) > 1:
        found = [max(found, key=lambda p: (scores[p[0]] or 0.0) - (scores[p[1]] or 0.0))]
    return found


def _responses(record: Record) -> tuple[Response, ...]:
    if not record.responses:
        raise DataError(
            f"{record.source}: is a prompt without an answer, so there is nothing to train; add the answers, or use a method that samples its own",
            code="no_assistant",
            source=record.source,
        )
    return record.responses


def _is_text(record: Record) -> bool:
    turns: tuple[Message, ...] = (*record.prompt, *(record.responses[0].messages if record.responses else ()))
    return bool(turns) and all(m.role == "text" for m in turns)


def _response_segment(record: Record, response: Response, tokenizer: Any, boundary: Boundary, extras: dict[str, float] | None = None) -> Segment:
    turns, start = (*record.prompt, *response.messages), len(record.prompt)
    wanted = {i for i in range(start, len(turns)) if turns[i].role == "assistant"}
    made = render(tokenizer, turns, trained=lambda i: i in wanted, tools=record.tools, source=record.source, boundary=boundary)
    extras = (extras or {}) | ({} if response.score is None else {"score": response.score})
    return _weighted(Segment(made.ids, made.weight, extras, made.source), response.weight)


def _weighted(made: Segment, weight: float) -> Segment:
    return made if weight == 1.0 else Segment(made.ids, made.weight * np.float32(weight), made.extras, made.source)


def _fit(made: Segment, tokenizer: Any, max_length: int | None, truncate: Truncate, report: RowReport) -> Segment | None:
    """The segment within `max_length`, or None; counts cuts in the report."""
    if max_length is None or len(made.ids) <= max_length:
        return made
    trained = np.flatnonzero(made.weight)
    over = len(made.ids) - max_length
    if truncate == "right" or (truncate == "refuse_answer" and len(trained) and trained[-1] < max_length):
        short = Segment(made.ids[:max_length], made.weight[:max_length], made.extras, made.source)
        if not short.weight.any():
            return None
        report.note(report.cut, "answer" if trained[-1] >= max_length else "context", made.source)
        return short
    bos = int(tokenizer.bos_token_id is not None and made.ids[0] == tokenizer.bos_token_id)
    # the token that becomes the first is never scored, so it must not be a trained one
    if truncate == "left" and len(trained) and trained[0] > over:
        keep = np.r_[np.arange(bos), np.arange(over + bos, len(made.ids))]
        report.note(report.cut, "context", made.source)
        return segment(made.ids[keep], made.weight[keep], made.source, made.extras)
    return None


def _begin(report: RowReport | None, max_length: int | None, truncate: str) -> RowReport:
    if max_length is not None and max_length < 2:
        raise UserError(f"max_length is {max_length}, but must be at least 2 tokens; leave it out for no limit.")
    if truncate not in get_args(Truncate):
        raise UserError(f'truncate is "{truncate}", but must be one of: {", ".join(get_args(Truncate))}.')
    return report if report is not None else RowReport()


def _drop(record: Record, reason: str, report: RowReport) -> None:
    report.records += 1
    report.note(report.dropped, reason, record.source)


def _done(row: Row, record: Record, report: RowReport) -> Row | None:
    """Count a row; drop it if nothing in one of its parts is trained."""
    if not all(any(s.weight.any() for s in segments) for segments in row.values()):
        return _drop(record, "nothing trained", report)
    report.records += 1
    report.kept += 1
    for segments in row.values():
        for s in segments:
            report.segments += 1
            report.tokens += len(s.ids)
            report.trained_tokens += int(np.count_nonzero(s.weight))
    return row
