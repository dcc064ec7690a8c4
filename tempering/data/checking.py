"""Find, before any training, what people lose days to.

`check` reads the whole source once, renders every record as training would, and counts: masks that train nothing or never the end of a turn, answers
that the length limit would eat, prompts that differ from those at inference, repeats, test items in the training data, broken text. Each finding says
how many rows, which ones first, and the mend. Wrong rows are counted too, instead of ending the reading.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.text import Text

from tempering.data.findings import CheckReport, Tally
from tempering.data.overlap import Overlap
from tempering.data.place import DataError
from tempering.data.readers import RecordSource, read
from tempering.data.rendering import prompt_ids
from tempering.data.rows import RowReport, TrainOn, pair_row, pairs, sft_row, unpaired_row
from tempering.data.show import render_example
from tempering.errors import UserError
from tempering.types import Message, Record, Segment

MOJIBAKE = re.compile("[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]{1,3}")
INVISIBLE = re.compile("[\ufeff\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]")
UNLIMITED = 10**9
"""Tokenizers without a limit say a number above this."""

Source = str | Iterable[Record]


def check(
    source: Source,
    policy_or_tokenizer: Any,
    *,
    against: Sequence[Source] = (),
    probes: Mapping[str, Sequence[str]] | None = None,
    max_length: int | None = None,
    train_on: TrainOn = "assistant",
    shape: str = "auto",
    split: str | None = None,
    limit: int | None = None,
    ngram: int = 13,
    say: Any = print,
) -> CheckReport:
    """Check training data against the model that is to be trained.

    Arguments:
        source: what `read` takes, or records.
        policy_or_tokenizer: a `Policy` or a tokenizer; a policy also says where generation stops and how long its inputs may be.
        against: test data whose prompts must not be trained on.
        probes: name -> prompts of probe items, looked for in the same way.
        max_length: tokens; without it the model's own limit, if it states one.
        train_on: as for `sft_row`.
        shape, split, limit: as for `read`.
        ngram: length of the runs of words that count as overlap.

    Raises UserError only if the source cannot be opened at all.
    """
    if ngram < 1:
        raise UserError(f"ngram is {ngram}, but must be at least 1 word.")
    work = _Check(policy_or_tokenizer, max_length, train_on, _index(against, probes or {}, ngram, say))
    records = read(source, shape=shape, split=split, limit=limit, say=say) if isinstance(source, str) else source
    try:
        stream = records.records(work.wrong) if isinstance(records, RecordSource) else records
        for record in stream:
            work.look(record)
    except UserError as error:
        work.tally.note(getattr(error, "code", "unreadable"), getattr(error, "source", "") or str(source), f"reading ended here: {error}")
    return CheckReport(
        source if isinstance(source, str) else getattr(source, "name", "records"),
        getattr(records, "shape", "records"),
        work.records,
        work.report.tokens,
        work.report.trained_tokens,
        work.longest,
        work.tally.findings(),
        work.example,
    )


class _Check:
    """The state of one check."""

    def __init__(self, policy: Any, max_length: int | None, train_on: TrainOn, overlap: Overlap) -> None:
        self.tokenizer = getattr(policy, "tokenizer", policy)
        self.max_length = max_length or _own_limit(policy, self.tokenizer)
        self.train_on: TrainOn = train_on
        self.overlap = overlap
        self.tally, self.report = Tally(), RowReport()
        self.records = self.longest = 0
        self.example: Text | None = None
        self.seen_rows: dict[int, str] = {}
        self.seen_prompts: dict[int, str] = {}
        special = {t for t in (*self.tokenizer.all_special_tokens, *self.tokenizer.get_added_vocab()) if len(t.strip()) > 2}
        self.special = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True)))) if special else None
        self.closing = set(self.tokenizer.all_special_ids) | set(self.tokenizer.get_added_vocab().values())
        self.stops = _stops(policy, self.tokenizer)

    def wrong(self, error: DataError) -> None:
        self.tally.note(error.code, error.source, str(error))

    def look(self, record: Record) -> None:
        self.records += 1
        self._text(record)
        self._repeats(record)
        if not record.responses:
            self.tally.note("nothing_trained", record.source)
            return
        report = RowReport()
        is_text = _is_text(record)
        try:
            segments = self._segments(record, report, is_text)
        except DataError as error:
            # the sentence of the first such error is the finding's own, but a missing template is no fault of the row
            self.tally.note(error.code, record.source, "" if error.code == "no_template" else str(error))
            return
        if report.dropped["nothing trained"]:
            self.tally.note("nothing_trained", record.source)
        for code in sorted({code for segment in segments for code in self._segment(segment, is_text)}):
            self.tally.note(code, record.source)
        if segments:
            if not is_text and record.prompt and self.train_on != "all":
                self._inference(record, segments[0])
            self.longest = max(self.longest, *(len(s.ids) for s in segments))
            self.example = self.example or render_example(segments[0], self.tokenizer)
            self.report.tokens += sum(len(s.ids) for s in segments)
            self.report.trained_tokens += sum(int(np.count_nonzero(s.weight)) for s in segments)

    def _segments(self, record: Record, report: RowReport, is_text: bool) -> list[Segment]:
        responses = record.responses
        if record.better or (len(responses) > 1 and pairs(record)):
            row = pair_row(record, self.tokenizer, report=report)
        elif responses and responses[0].label is not None:
            row = unpaired_row(record, self.tokenizer, report=report)
        else:
            length = self.max_length if is_text else None
            row = sft_row(record, self.tokenizer, train_on=self.train_on, max_length=length, report=report)
        return [s for segments in (row or {}).values() for s in segments]

    def _segment(self, segment: Segment, is_text: bool) -> list[str]:
        """The codes of what is wrong with one segment."""
        trained, ids = np.flatnonzero(segment.weight), np.asarray(segment.ids)
        codes = []
        if len(ids) > 1 and ids[0] == ids[1] == self.tokenizer.bos_token_id:
            codes.append("duplicate_bos")
        if self.max_length is not None and len(ids) > self.max_length:
            codes.append("answer_truncated" if trained[-1] >= self.max_length else "over_long")
        if is_text:
            return codes
        last = ids[trained[np.diff(trained, append=len(ids) + 1) > 1]]
        if not all(int(t) in self.closing for t in last):
            codes.append("eos_never_trained")
        elif self.stops and not all(int(t) in self.stops for t in last):
            codes.append("stop_differs")
        return codes

    def _inference(self, record: Record, segment: Segment) -> None:
        """The tokens before the first answer must be those of the prompt at inference."""
        prompt = prompt_ids(self.tokenizer, record.prompt, record.tools)
        if segment.ids[: len(prompt)].tolist() != prompt or segment.weight[: len(prompt)].any():
            self.tally.note("prompt_differs", record.source)

    def _text(self, record: Record) -> None:
        codes = set()
        for message in (*record.prompt, *(m for r in record.responses for m in r.messages)):
            text = message.content
            if any(_undecoded(found[0]) for found in MOJIBAKE.finditer(text)):
                codes.add("mojibake")
            if "\ufffd" in text:
                codes.add("replacement")
            if INVISIBLE.search(text):
                codes.add("invisible")
            if self.special is not None and self.special.search(text):
                codes.add("special_in_content")
        if any(not any(m.content.strip() or m.tool_calls for m in r.messages if m.role in ("assistant", "text")) for r in record.responses):
            codes.add("empty_response")
        sides = [r.messages for r in record.responses]
        if any(sides[i] == sides[j] for i, j in record.better):
            codes.add("identical_pair")
        for code in sorted(codes):
            self.tally.note(code, record.source)

    def _repeats(self, record: Record) -> None:
        prompt, answers = _said(record.prompt), [_said(r.messages) for r in record.responses]
        label = tuple(r.label for r in record.responses)
        row, key = hash((prompt, *answers, *label)), hash(prompt)
        if row in self.seen_rows:
            self.tally.note("duplicate_row", f"{record.source} = {self.seen_rows[row]}")
        elif prompt and key in self.seen_prompts:
            self.tally.note("repeated_prompt", f"{record.source} = {self.seen_prompts[key]}")
        self.seen_rows.setdefault(row, record.source)
        self.seen_prompts.setdefault(key, record.source)
        plain = _plain(record.prompt)
        exact = self.overlap.exact(plain or " ".join(answers))
        near = None if exact else self.overlap.near(" ".join((plain, *(_plain(r.messages) for r in record.responses))))
        if exact or near:
            self.tally.note("prompt_in_test" if exact else "near_test", f"{record.source} ~ {exact or near}")


def _index(against: Sequence[Source], probes: Mapping[str, Sequence[str]], ngram: int, say: Any) -> Overlap:
    overlap = Overlap(ngram)
    for other in against:
        for record in read(other, say=say) if isinstance(other, str) else other:
            overlap.add(record.source, _plain(record.prompt) or " ".join(_plain(r.messages) for r in record.responses))
    for name, texts in sorted(probes.items()):
        for number, text in enumerate(texts, 1):
            overlap.add(f"{name}#{number}", text)
    return overlap


def _own_limit(policy: Any, tokenizer: Any) -> int | None:
    config = getattr(getattr(policy, "model", None), "config", None)
    limits = (getattr(config, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None))
    known = [int(x) for x in limits if isinstance(x, (int, float)) and 0 < x < UNLIMITED]
    return min(known) if known else None


def _stops(policy: Any, tokenizer: Any) -> set[int]:
    """Tokens at which generation stops: the tokenizer's EOS, and those of the model's generation config."""
    own = getattr(getattr(getattr(policy, "model", None), "generation_config", None), "eos_token_id", None)
    many = own if isinstance(own, (list, tuple)) else [own]
    return {int(t) for t in (tokenizer.eos_token_id, *many) if t is not None}


def _undecoded(piece: str) -> bool:
    """Whether these characters are one UTF-8 character that was decoded as Windows-1252 or Latin-1."""
    for length in range(len(piece), 1, -1):
        for codec in ("cp1252", "latin-1"):
            try:
                if len(piece[:length].encode(codec).decode("utf-8")) == 1:
                    return True
            except UnicodeError:
                continue
    return False


def _is_text(record: Record) -> bool:
    return all(m.role == "text" for r in record.responses for m in r.messages)


def _said(messages: Sequence[Message]) -> str:
    return "\x00".join(f"{m.role}\x01{m.content}" for m in messages)


def _plain(messages: Sequence[Message]) -> str:
    """Contents without system prompts, which many records share."""
    return " ".join(m.content for m in messages if m.role != "system")
