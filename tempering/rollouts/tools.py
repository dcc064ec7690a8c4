"""Tools that a policy calls by name while it answers, and nothing more than that: a call is JSON, looked up in a table, never code.

    <tool_call>{"name": "search", "arguments": {"query": "birth city of Ada"}}</tool_call>

is the form that many chat templates teach. A call that cannot be read, or names no tool, is answered by a sentence that says what is wrong with it;
what a tool says comes back as a turn of role "tool", which the policy has not sampled and so never learns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tempering.types import Message

CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|$)", re.DOTALL)


@dataclass(frozen=True)
class Tool:
    """Something with a name that takes texts and gives one."""

    name: str
    about: str
    """What it does, for the policy."""
    takes: Mapping[str, str]
    """Its arguments, all of them needed: name -> what it is."""
    use: Callable[..., str]
    """Called with the arguments by name."""

    @property
    def schema(self) -> dict[str, Any]:
        """As chat templates take it."""
        fields = {name: {"type": "string", "description": about} for name, about in self.takes.items()}
        parameters = {"type": "object", "properties": fields, "required": list(self.takes)}
        return {"type": "function", "function": {"name": self.name, "description": self.about, "parameters": parameters}}


def called(answer: str, tools: Sequence[Tool]) -> tuple[list[Message], int]:
    """(what each call in an answer is answered, how many of them were in order); nothing where there is none."""
    replies = [_reply(text, {tool.name: tool for tool in tools}) for text in CALL.findall(answer)]
    return [Message("tool", text, name=name or None) for name, text in replies], sum(bool(name) for name, _ in replies)


def _reply(text: str, tools: Mapping[str, Tool]) -> tuple[str, str]:
    """(name of the tool that answers, or "" where none does; what is said)."""
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        return "", 'This is not JSON. Write {"name": ..., "arguments": {...}}.'
    name, given = (call.get("name"), call.get("arguments")) if isinstance(call, dict) else (None, None)
    tool = tools.get(name) if isinstance(name, str) else None
    if tool is None:
        return "", f"There is no such tool. There is {', '.join(tools)}."
    if not isinstance(given, dict) or given.keys() != tool.takes.keys() or not all(isinstance(value, str) for value in given.values()):
        return "", f"{tool.name} takes {', '.join(tool.takes)}, as text."
    return tool.name, tool.use(**given)
