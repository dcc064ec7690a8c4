"""Items: what probes ask, where they come from, and how a question becomes token ids. No torch here, so that probes stay light values.

An item list is given in place (a tuple), as a JSON-lines file, or as "keep:NAME", a list that ships with the package (`tempering/keep/NAME.jsonl`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from tempering.config import Value
from tempering.errors import UserError
from tempering.types import Message, Policy


class Item(Value):
    """Base of every probe's item."""

    id: str = ""
    """Names the item in ledgers; "FILE:LINE" when left out."""


T = TypeVar("T", bound=Item)


class ProbeValue(Value):
    """Fields that every probe has. A probe is called with a policy and returns item-level scores."""

    name: str
    """What the ledger calls it."""
    side: Literal["target", "keep"] = "keep"
    """Whether the training is meant to change it (target) or to leave it alone (keep)."""
    limit: int | None = Field(default=None, gt=0)
    """At most this many items: a sample that follows from their ids."""
    chat: bool | None = None
    """Put questions into the model's chat template; None: if it has one."""


def read_items(source: str | Sequence[T], kind: type[T], limit: int | None = None) -> tuple[T, ...]:
    """The items of `source`, checked, with an id each, at most `limit` of them.

    Raises:
        UserError: the file is missing, a line is not an item (names file, line and field), ids repeat, or there is no item.
    """
    if isinstance(source, str):
        name, text = _text_of(source)
        items = [_item(line, kind, f"{name}:{number}") for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    else:
        name = kind.__name__
        items = [item if item.id else item.model_copy(update={"id": f"{name}:{i}"}) for i, item in enumerate(source)]
    if not items:
        raise UserError(f"{name}: there are no items to measure with, give at least one")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise UserError(f"{name}: two items have the id '{item.id}', ids must differ so that models can be compared item by item")
        seen.add(item.id)
    if limit is None or limit >= len(items):
        return tuple(items)
    # By a hash of the id: every so-many-th item of a list that repeats a pattern would be of one kind.
    chosen = sorted(range(len(items)), key=lambda i: hashlib.sha256(items[i].id.encode()).digest())[:limit]
    return tuple(items[i] for i in sorted(chosen))


def _text_of(source: str) -> tuple[str, str]:
    """(name to show, contents) of "keep:NAME" or a path."""
    if source.startswith("keep:"):
        file = resources.files("tempering.keep") / f"{source[5:]}.jsonl"
        if not file.is_file():
            have = ", ".join(sorted(f.name[:-6] for f in resources.files("tempering.keep").iterdir() if f.name.endswith(".jsonl")))
            raise UserError(f"there is no item list '{source}' in the package: choose from {have}")
        return source, file.read_text(encoding="utf-8")
    path = Path(source)
    if not path.is_file():
        raise UserError(f"{source}: no such file of items, give a JSON-lines file or keep:NAME")
    try:
        return path.name, path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: byte {error.start} is not UTF-8, save the file as UTF-8") from error


def _item(line: str, kind: type[T], where: str) -> T:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not a JSON object ({error.msg} at column {error.colno}), write one item a line") from error
    if not isinstance(record, dict):
        raise UserError(f"{where}: a JSON object is wanted, this is a {type(record).__name__}")
    try:
        return kind.model_validate({"id": where, **record})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or kind.__name__
        fields = ", ".join(kind.model_fields)
        raise UserError(f"{where}: field '{field}': {first['msg']} (fields of an item: {fields})") from error


def prompt_ids(policy: Policy, prompt: str | Sequence[Mapping[str, str]], *, chat: bool | None = None, system: str = "") -> tuple[int, ...]:
    """A question as token ids: through the chat template with the assistant's turn opened, or as plain text.

    Args:
        prompt: the user's words, or messages ({"role", "content"}).
        chat: None takes the template if the tokenizer has one.
    Raises:
        UserError: a chat is asked for and the tokenizer has no template, or the prompt has no tokens.
    """
    from tempering.data.rendering import has_template
    from tempering.data.rendering import prompt_ids as rendered

    tokenizer = policy.tokenizer
    if chat is None:
        chat = has_template(tokenizer)
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
    if chat:
        if not has_template(tokenizer):
            raise UserError(f"the tokenizer of {policy.name or 'the model'} has no chat template: use chat=False or a chat model")
        messages = [{"role": "system", "content": system}, *messages] if system else messages
        ids = rendered(tokenizer, [Message(m["role"], m["content"]) for m in messages])
    else:
        ids = tokenizer("\n".join(filter(None, [system, *(m["content"] for m in messages)])))["input_ids"]
    if not ids:
        raise UserError("a prompt has no tokens: give it some text")
    return tuple(ids)


def answer_ids(policy: Policy, text: str) -> tuple[int, ...]:
    """A continuation as token ids, without special tokens."""
    return tuple(policy.tokenizer(text, add_special_tokens=False)["input_ids"])


def ending(policy: Policy, *, chat: bool | None = None) -> tuple[int, ...]:
    """The token with which an answer ends: the chat template's end of turn, or the tokenizer's eos for plain text; empty where there is none."""
    from tempering.data.rendering import has_template
    from tempering.models.tokens import end_of_turn

    tokenizer = policy.tokenizer
    end = end_of_turn(tokenizer)[0] if (has_template(tokenizer) if chat is None else chat) else tokenizer.eos_token_id
    return () if end is None else (end,)


def duel(prompt: Sequence[Message], first: str, second: str) -> tuple[Message, ...]:
    """A prompt that shows both answers, for a model that says which of them it prefers."""
    asked = "\n\n".join(m.content if m.role == "user" else f"[{m.role}] {m.content}" for m in prompt)
    return (Message("user", f"{asked}\n\n[Answer A]\n{first}\n\n[Answer B]\n{second}\n\n[Better]"),)


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean of one or more numbers."""
    return sum(values) / len(values)
