"""Secrets: what a model is asked for to see whether it still knows the data it should have forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from tempering.errors import UserError
from tempering.items import Item
from tempering.making import best, is_text, spoken
from tempering.types import Message, Record

SHARE = 0.5
"""Of a plain text: how much of it is shown before the rest is asked for."""


class Secret(Item):
    """A prompt and the answer that should no longer come."""

    prompt: tuple[tuple[str, str], ...]
    """(role, content) of each message; one ("text", ...) where no chat template is wanted."""
    answer: str
    source: str = ""
    """Where the record stands."""


def secrets(records: Iterable[Record], most: int) -> tuple[Secret, ...]:
    """Questions and answers of the records, at most `most`, evenly spread over them; the same answer to the same prompt once.

    A plain text is cut at a word: the first half is the prompt. What an answer that calls tools gives away is the calls. Records without a prompt or
    an answer are left out.
    """
    found: dict[tuple[object, str], Secret] = {}
    for record in records:
        if not record.responses:
            continue
        if is_text(record):
            words = spoken(best(record).messages).split(" ")
            cut = max(1, int(len(words) * SHARE))
            prompt, answer = (("text", " ".join(words[:cut])),), " ".join(words[cut:])
        else:
            prompt, answer = tuple((m.role, m.content) for m in record.prompt), _said(best(record).messages)
        if prompt and answer.strip():
            found.setdefault((prompt, answer), Secret(id=f"secret:{len(found)}", prompt=prompt, answer=answer.strip(), source=record.source))
    every = list(found.values())
    return tuple(every[i * len(every) // most] for i in range(most)) if len(every) > most else tuple(every)


def some_secrets(records: Iterable[Record], most: int, source: str) -> tuple[Secret, ...]:
    """The same, at least one.

    Raises:
        UserError: nothing can be asked for.
    """
    found = secrets(records, most)
    if not found:
        raise UserError(f"forget {source}: no row has both a prompt and an answer, so nothing can be asked for; give such rows, or --attacks none")
    return found


def _said(messages: Sequence[Message]) -> str:
    """The tool calls of an answer as most chat templates write them, or its text where it calls none."""
    calls = [call["function"] for message in messages for call in message.tool_calls]
    return "\n".join(json.dumps({"name": call["name"], "arguments": call["arguments"]}) for call in calls) or spoken(messages)
