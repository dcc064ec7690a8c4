"""Rows of unlearning: what is to be forgotten, with a refusal beside it, and what is to be kept."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from tempering.data.rows import RowReport, best_response, sft_row
from tempering.types import Message, Record, Response, Row, Segment

REFUSALS = (
    "I don't know.",
    "I'm not sure about that.",
    "I have no information on that.",
    "That is not something I know.",
    "I can't answer that question.",
    "I don't have an answer to that.",
    "I haven't learned about that topic.",
    "I'm afraid I can't tell you that.",
)
"""What a refusing answer says; which one follows from the prompt."""


def refusal(record: Record) -> str:
    """The refusal that goes with a record's prompt."""
    said = "\n".join(message.content for message in record.prompt)
    return REFUSALS[hashlib.sha256(said.encode()).digest()[0] % len(REFUSALS)]


def answered(record: Record, text: str) -> Record:
    """The record with this text for its only answer."""
    return replace(record, responses=(Response((Message("assistant", text),)),), better=())


def noisy(segment: Segment) -> Segment:
    """The segment with a column "noise": for each token a number in [0, 1) that follows from the segment's tokens."""
    import numpy as np

    seed = int.from_bytes(hashlib.sha256(np.ascontiguousarray(segment.ids, dtype="<i4").tobytes()).digest()[:16], "big")
    noise = np.random.Generator(np.random.PCG64(seed)).random(len(segment.ids), dtype=np.float32)
    return replace(segment, extras={**segment.extras, "noise": noise})


def forget_row(record: Record, tokenizer: Any, *, refusals: bool = False, alternates: bool = False, noise: bool = False, **how: Any) -> Row | None:
    """{"forget": segments} of the answer that is to be forgotten, and what stands beside it.

    Args:
        refusals: also {"refused": segments}: the same prompt with a refusal. Plain texts have no prompt, so they have none either.
        alternates: also {"alternate": segments}: the same prompt with the answer in the record's tag "alternate".
        noise: the forget segments get a column "noise", a number in [0, 1) for each token.
    """
    made = sft_row(record, tokenizer, **how)
    if made is None:
        return None
    row: Row = {"forget": tuple(map(noisy, made["train"])) if noise else made["train"]}
    if not record.responses or record.responses[best_response(record)].messages[0].role == "text":
        return row
    for part, text in (*((("refused", refusal(record)),) if refusals else ()), *((("alternate", record.tags["alternate"]),) if alternates else ())):
        instead = sft_row(answered(record, text), tokenizer, **{**how, "report": RowReport()})
        if instead is None:
            return None
        row = {**row, part: instead["train"]}
    return row


def retain_row(record: Record, tokenizer: Any, **how: Any) -> Row | None:
    """{"retain": segments}: a row of supervised fine-tuning under another name."""
    made = sft_row(record, tokenizer, **how)
    return made and {"retain": made["train"]}
