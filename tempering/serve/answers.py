"""Rows become JSON: choices, their log-probs, chunks of a stream, and the usage.

An answer and a stream are made of the same pieces, so that the pieces of a stream, joined, are the answer. The token that ended an answer has its
log-prob listed, but no text.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tempering.sampling.types import PromptLogps, Token, Top
from tempering.serve.jobs import Job, Served
from tempering.serve.text import Names, Text

FLOOR = -9999.0
"""In place of minus infinity, which JSON lacks; OpenAI's number."""


@dataclass(frozen=True)
class Mark:
    """One token and its log-probs."""

    id: int
    logp: float | None
    top: Top = ()


@dataclass
class Piece:
    """Some text of one choice, the tokens it was found with (their text may come later), and why it ended, if it did."""

    text: str = ""
    marks: list[Mark] = field(default_factory=list)
    finish: str | None = None


class Answer:
    """The answer to one job, as events come in."""

    def __init__(self, job: Job, served: Served, names: Names) -> None:
        self.job, self._served, self._names = job, served, names
        self._texts = [Text(served.tokenizer, row.stop) for row in job.rows]
        self._offsets = [0] * len(job.rows)
        self._begun = [False] * len(job.rows)
        self.new_tokens = 0
        kind = "chat.completion" if job.chat else "text_completion"
        self._head = {
            "id": ("chatcmpl-" if job.chat else "cmpl-") + uuid.uuid4().hex,
            "object": f"{kind}.chunk" if job.chat and job.stream else kind,
            "created": int(time.time()),
            "model": served.name,
        }

    def take(self, row: int, event: PromptLogps | Token) -> Piece | None:
        """What an event adds to a row; None where it adds nothing that shows."""
        if isinstance(event, PromptLogps):
            ids = self.job.rows[row].prompt_ids
            return self._echoed(row, [Mark(*mark) for mark in zip(ids, event.logps, event.top, strict=True)])
        piece = self._echoed(row, []) or Piece()
        if self.job.prompt_only:
            piece.finish = "length"
            return piece
        self.new_tokens += 1
        text = self._texts[row]
        ends = event.finished == "stop" and event.id in self._served.ends
        piece.text += "" if ends else text.add(event.id)
        if event.finished:
            piece.text += text.end()
            piece.finish = event.finished
        if self.job.logprobs:
            piece.marks.append(Mark(event.id, event.logp, event.top))
        return piece if piece.text or piece.marks or piece.finish else None

    def _echoed(self, row: int, marks: list[Mark]) -> Piece | None:
        if self._begun[row] or not self.job.echoed:
            return None
        self._begun[row] = True
        return Piece(self.job.echoed[row // self.job.n], marks)

    def whole(self, pieces: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        """The answer; `pieces` by row."""
        joined = [
            Piece("".join(p.text for p in mine), [mark for p in mine for mark in p.marks], next(p.finish for p in mine if p.finish))
            for mine in pieces
        ]
        return {**self._head, "choices": [self._choice(row, piece) for row, piece in enumerate(joined)], "usage": self.usage()}

    def opening(self) -> list[dict[str, Any]]:
        """The chunks before the first token: a chat says who speaks."""
        rows = range(len(self.job.rows)) if self.job.chat else ()
        return [self._chunk([{"index": row, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}]) for row in rows]

    def chunk(self, row: int, piece: Piece) -> dict[str, Any]:
        """One piece as a chunk of a stream."""
        return self._chunk([self._choice(row, piece)])

    def closing(self) -> list[dict[str, Any]]:
        """The chunk after the last token, where the usage is asked for."""
        return [{**self._head, "choices": [], "usage": self.usage()}] if self.job.usage_at_end else []

    def usage(self) -> dict[str, int]:
        """Tokens; a prompt counts once whatever the number of its choices."""
        given = self.job.prompt_tokens
        return {"prompt_tokens": given, "completion_tokens": self.new_tokens, "total_tokens": given + self.new_tokens}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "choices": choices, **({"usage": None} if self.job.usage_at_end else {})}

    def _choice(self, row: int, piece: Piece) -> dict[str, Any]:
        if not self.job.chat:
            logprobs = self._listed(row, piece.marks) if self.job.logprobs else None
            return {"index": row, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish}
        logprobs = {"content": [self._described(mark) for mark in piece.marks], "refusal": None} if self.job.logprobs else None
        said = {"delta": {"content": piece.text}} if self.job.stream else {"message": {"role": "assistant", "content": piece.text, "refusal": None}}
        return {"index": row, **said, "logprobs": logprobs, "finish_reason": piece.finish}

    def _name(self, token: int) -> str:
        return f"token_id:{token}" if self.job.as_ids else self._names.name(token)

    def _listed(self, row: int, marks: Sequence[Mark]) -> dict[str, Any]:
        """The shape of completions: parallel lists. Of alternatives that are written alike the likeliest is shown."""
        tops: list[dict[str, float] | None] = []
        offsets: list[int] = []
        for mark in marks:
            offsets.append(self._offsets[row])
            self._offsets[row] += len(self._names.name(mark.id))
            if mark.logp is None:
                tops.append(None)
                continue
            alternatives = sorted({**dict(mark.top), mark.id: mark.logp}.items(), key=lambda item: -item[1])
            shown: dict[str, float] = {}
            for token, logp in alternatives:
                shown.setdefault(self._name(token), _finite(logp))
            tops.append(shown)
        return {
            "tokens": [self._name(mark.id) for mark in marks],
            "token_logprobs": [None if mark.logp is None else _finite(mark.logp) for mark in marks],
            "top_logprobs": tops,
            "text_offset": offsets,
        }

    def _described(self, mark: Mark) -> dict[str, Any]:
        """The shape of chats: an object per token."""
        assert mark.logp is not None
        return {**self._one(mark.id, mark.logp), "top_logprobs": [self._one(token, logp) for token, logp in mark.top]}

    def _one(self, token: int, logp: float) -> dict[str, Any]:
        text = self._names.name(token)
        return {"token": self._name(token), "logprob": _finite(logp), "bytes": None if "\ufffd" in text else list(text.encode())}


def _finite(logp: float) -> float:
    return logp if math.isfinite(logp) else FLOOR
