"""Messages as people write them, read into `Message`s.

Roles have a dozen spellings, contents come as strings or as lists of parts, tool calls as OpenAI's nested layout, as flat {"name", "arguments"} or as
JSON inside a string. All of that ends here. What tempering cannot train on (images, audio) is refused, never dropped.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tempering.data.place import Place, quote
from tempering.types import Message

ROLES: Mapping[str, str] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "usr", "prompter", "question", "customer"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "ai", "model", "chatgpt", "bard", "bing", "answer", "agent"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function", "function_response", "tool_response", "ipython", "environment"), "tool"),
    **dict.fromkeys(("function_call", "tool_call", "tool_calls"), "tool_call"),
}
"""Spelling (lower case) -> our role. "tool_call" is a turn of the assistant whose text is the call."""

THINK = "<think>\n{reasoning}\n</think>\n\n{content}"
"""How separate reasoning is written into the content: the layout that templates of reasoning models take apart again."""

TURN = re.compile(r"(?:^|\n\n)(Human|Assistant|System):", re.ASCII)


def text_of(value: Any, field: str, where: Place) -> str:
    """A string field; refuses other types and lone surrogates, which no tokenizer can encode."""
    if not isinstance(value, str):
        raise where.error(f'field "{field}" must be a string, but is {quote(value)}; write the text itself there')
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise where.error(
                f'field "{field}" holds half a Unicode surrogate pair ({quote(value[error.start])}), which is no text; '
                "write the whole character or remove it",
                "encoding",
            ) from None
    return value


def number_of(value: Any, field: str, where: Place) -> float:
    """A finite score. Strings such as "4.5" are read, for CSV; true and false are not scores."""
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError
        number = float(value)
    except (ValueError, OverflowError):
        raise where.error(f'field "{field}" must be a number, but is {quote(value)}; give a finite score, higher is better', "score") from None
    if not math.isfinite(number):
        raise where.error(f'field "{field}" is {quote(value)}, but a score must be finite; remove the record or give it a score', "score")
    return number


def label_of(value: Any, field: str, where: Place) -> bool:
    """A desirable / undesirable label: true, false, 0, 1, or the strings "true", "false", "yes", "no", "0", "1" (CSV has no other way)."""
    key = value.strip().lower() if isinstance(value, str) else value
    if isinstance(key, (bool, int, float)) and key in (0, 1):
        return bool(key)
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if isinstance(key, str) and key in words:
        return words[key]
    raise where.error(f'field "{field}" is {quote(value)}, but a label is true (desirable) or false (undesirable); write one of these', "label")


def maybe_json(value: Any) -> Any:
    """The value inside a string that is a JSON list or object (CSV cells, tool schemas); other values unchanged."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def messages_of(value: Any, field: str, where: Place) -> tuple[tuple[Message, ...], tuple[int, ...]]:
    """Read a list of turns, or one turn, or a transcript string.

    Returns the messages, and the indices of assistant turns whose weight in the data (`weight`, `loss_weight`, `train`) is zero.
    """
    value = maybe_json(value)
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, str):
        return transcript_of(value, field, where), ()
    if not isinstance(value, Sequence):
        raise where.error(f'field "{field}" must be a list of turns, but is {quote(value)}; write [{{"role": "user", "content": "..."}}, ...]')
    if not value:
        raise where.error(f'field "{field}" is an empty list; a conversation needs a user turn and an assistant turn', "no_turns")
    turns, untrained = [], []
    for index, turn in enumerate(value):
        name = f"{field}[{index}]"
        message, trained = turn_of(turn, name, where)
        if not trained:
            untrained.append(index)
        if message.role == "system" and index:
            if any(m.role == "system" for m in turns):
                raise where.error(f'"{name}" is a second system turn; chat templates take one, so join the two into the first', "two_systems")
            raise where.error(f'"{name}" is a system turn after other turns; move it to the front', "late_system")
        turns.append(message)
    return tuple(turns), tuple(untrained)


def turn_of(turn: Any, name: str, where: Place) -> tuple[Message, bool]:
    """One turn -> (message, whether its own weight lets it be trained)."""
    if not isinstance(turn, Mapping):
        raise where.error(f'"{name}" must be an object with "role" and "content", but is {quote(turn)}')
    role_key = next((k for k in ("role", "from") if turn.get(k) is not None), None)
    if role_key is None:
        raise where.error(f'"{name}" has no "role" (or "from"); its fields are {_names(turn)}; say who speaks: system, user, assistant or tool')
    spelled = turn[role_key]
    role = ROLES.get(spelled.strip().lower()) if isinstance(spelled, str) else None
    if role is None:
        near = difflib.get_close_matches(str(spelled).lower(), ROLES, 1)
        raise where.error(
            f'"{name}" has the role {quote(spelled)}, which is not known; write system, user, assistant or tool'
            + (f' (did you mean "{near[0]}"?)' if near else ""),
            "role",
        )
    content, calls = _content(next((turn[k] for k in ("content", "value", "text") if turn.get(k) is not None), None), name, where)
    calls += tuple(_call(c, f"{name}.tool_calls", where) for c in _listed(turn.get("tool_calls") or turn.get("function_call") or ()))
    if role == "tool_call":
        role, calls = "assistant", calls + tuple(_call(c, name, where) for c in _listed(maybe_json(content)))
        content = ""
    reasoning = next((turn[k] for k in ("reasoning_content", "reasoning", "thinking") if turn.get(k)), None)
    if reasoning is not None:
        content = THINK.format(reasoning=text_of(reasoning, f"{name}.reasoning", where), content=content or "")
    if content is None:
        if not calls:
            raise where.error(f'"{name}" has no "content" (or "value"); its fields are {_names(turn)}; write the text, or remove the turn')
        content = ""
    speaker = turn.get("name")
    return Message(role, content, calls, speaker if isinstance(speaker, str) else None), _trained(turn, role, name, where)


def transcript_of(text: str, field: str, where: Place) -> tuple[Message, ...]:
    """Read a transcript with "\\n\\nHuman:" and "\\n\\nAssistant:" turns; spaces around each turn are removed."""
    text_of(text, field, where)
    marks = list(TURN.finditer(text))
    if not marks or text[: marks[0].start()].strip():
        raise where.error(f'field "{field}" is neither a list of turns nor a transcript that begins with "Human:"; it begins with {quote(text[:30])}')
    ends = [m.start() for m in marks[1:]] + [len(text)]
    role = {"Human": "user", "Assistant": "assistant", "System": "system"}
    return tuple(Message(role[m[1]], text[m.end() : end].strip()) for m, end in zip(marks, ends, strict=True))


def is_transcript(text: Any) -> bool:
    """True for a string that begins with a "Human:", "Assistant:" or "System:" turn."""
    return isinstance(text, str) and TURN.match(text.lstrip(" ")) is not None


def tools_of(value: Any, where: Place) -> tuple[Mapping[str, Any], ...]:
    """Tool schemas: a list of objects, or that as JSON inside a string."""
    value = maybe_json(value)
    if value is None or value == "":
        return ()
    tools = _listed(value)
    if not all(isinstance(tool, Mapping) for tool in tools):
        raise where.error(f'field "tools" must be a list of JSON schemas, but holds {quote(value)}; write [{{"type": "function", ...}}]')
    return tuple(tools)


def _content(value: Any, name: str, where: Place) -> tuple[str | None, tuple[Mapping[str, Any], ...]]:
    if value is None or isinstance(value, str):
        return (None if value is None else text_of(value, f"{name}.content", where)), ()
    if not isinstance(value, Sequence):
        raise where.error(f'"{name}.content" must be a string, but is {quote(value)}; write the text itself there')
    text, reasoning, calls = "", "", []
    for part in value:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        inner = part.get("text", part.get("value")) if isinstance(part, Mapping) else part
        if kind in ("text", "input_text", "output_text"):
            text += text_of(inner, f"{name}.content", where)
        elif kind in ("reasoning", "thinking"):
            reasoning += text_of(part.get("thinking", inner), f"{name}.content", where)
        elif kind in ("tool_call", "tool_calls"):
            calls += [_call(c, f"{name}.content", where) for c in _listed(maybe_json(inner))]
        else:
            raise where.error(f'"{name}" holds a part of type {quote(kind)}, but tempering trains on text only; remove these records', "not_text")
    return (THINK.format(reasoning=reasoning, content=text) if reasoning else text), tuple(calls)


def _call(value: Any, name: str, where: Place) -> Mapping[str, Any]:
    """One tool call in the layout that chat templates read: {"type": "function", "function": {"name", "arguments": object}}."""
    value = maybe_json(value)
    function = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise where.error(f'"{name}" is not a tool call: {quote(value)}; write {{"name": "...", "arguments": {{...}}}}', "tool_call")
    call: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": maybe_json(function.get("arguments", {}))}}
    if isinstance(value.get("id"), str):
        call["id"] = value["id"]
    return call


def _trained(turn: Mapping[str, Any], role: str, name: str, where: Place) -> bool:
    for key in ("loss_weight", "weight", "train"):
        weight = turn.get(key)
        if weight is None:
            continue
        if isinstance(weight, (bool, int, float)) and weight in (0, 1) and (role == "assistant" or not weight):
            return role == "assistant" and bool(weight)
        raise where.error(
            f'"{name}.{key}" is {quote(weight)} on a turn of the {role}, but only 0 or 1 on assistant turns can be honoured; change or remove it',
            "turn_weight",
        )
    return True


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)


def _names(row: Mapping[str, Any]) -> str:
    return ", ".join(f'"{str(k)[:30]}"' for k in list(row)[:12]) or "none"
