"""Environments of other packages, whose conversations are objects that live and cannot be written down: they are kept by number, the number in the
conversation's memory, until it is over. A conversation is played in one process from beginning to end (`partial` is refused), so a checkpoint never
holds such a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from itertools import count
from typing import Any, ClassVar

from tempering.errors import UserError
from tempering.rollouts.types import Environment, Trajectory


class Live(Environment):
    """Base of adapters."""

    portable: ClassVar[bool] = False

    @property
    def binary(self) -> bool:
        """A package may pay any number."""
        return False

    @cached_property
    def _open(self) -> dict[int, Any]:
        return {}

    @cached_property
    def _numbers(self) -> Iterator[int]:
        """None is given twice: a conversation that is over still has its own."""
        return count()

    def _opened(self, live: Any) -> dict[str, int]:
        """The memory of a new conversation."""
        number = next(self._numbers)
        self._open[number] = live
        return {"open": number}

    def _left(self, played: Sequence[Trajectory]) -> Iterator[tuple[int, Any]]:
        """(place, live object) of conversations that ended without being over, as where a model has no room for another turn; they are let go."""
        for place, one in enumerate(played):
            if (live := self._open.pop(int(one.state.memory.get("open", -1)), None)) is not None:
                yield place, live

    @contextmanager
    def _theirs(self, doing: str) -> Iterator[None]:
        """Around calls of the other package: what it raises becomes a sentence."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            told = str(error).strip().partition("\n")[0]
            raise UserError(f"environment {self.name}: {doing}: {type(error).__name__}: {told or 'no reason given'}") from error

    def __getstate__(self) -> dict[Any, Any]:
        """Fields alone: a sampler in another process loads the package there."""
        found = dict(super().__getstate__())
        fields = type(self).model_fields
        return {**found, "__dict__": {name: value for name, value in found["__dict__"].items() if name in fields}}


def module(name: str, how: str) -> Any:
    """A package's module.

    Raises:
        UserError: it is not installed; `how` says what to do.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UserError(how) from None
        raise UserError(f"{name} is installed, but not what it needs ({error}); install it with all of its requirements") from None


def field(message: Any, name: str) -> Any:
    """A field of a message, which packages write as mappings or as objects."""
    return message.get(name) if isinstance(message, Mapping) else getattr(message, name, None)


def text(content: Any) -> str:
    """A message's content as text: itself, or its parts of text.

    Raises:
        UserError: a part is no text.
    """
    if content is None or isinstance(content, str):
        return content or ""
    parts = [(field(part, "type"), field(part, "text")) for part in content]
    if strange := next((kind for kind, _ in parts if kind != "text"), None):
        raise UserError(f"a message has a part of type {strange!r}; only text can be read")
    return "\n".join(str(part) for _, part in parts)
