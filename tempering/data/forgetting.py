"""Rows of unlearning: what is to be forgotten, with a refusal beside it, and what is to be kept."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from tempering.data.rows import RowReport, best_response, sft_row
from tempering.types import Message, Record, Response, Row

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


def refused(record: Record) -> Record:
    """The record with a refusal for its only answer."""
    return replace(record, responses=(Response((Message("assistant", refusal(record)),)),), better=())


def forget_row(record: Record, tokenizer: Any, *, refusals: bool = False, **how: Any) -> Row | None:
    """{"forget": segments} of the answer that is to be forgotten, and with `refusals` {"refused": segments} of the same prompt with a refusal.

    Plain texts have no prompt, so they have no refusal either.
    """
    made = sft_row(record, tokenizer, **how)
    if made is None:
        return None
    row: Row = {"forget": made["train"]}
    if not refusals or not record.responses or record.responses[best_response(record)].messages[0].role == "text":
        return row
    instead = sft_row(refused(record), tokenizer, **{**how, "report": RowReport()})
    return instead and {**row, "refused": instead["train"]}


def retain_row(record: Record, tokenizer: Any, **how: Any) -> Row | None:
    """{"retain": segments}: a row of supervised fine-tuning under another name."""
    made = sft_row(record, tokenizer, **how)
    return made and {"retain": made["train"]}
