"""Values of Python as JSON, for two processes that do not trust each other: plain data only, rebuilt from its parts by the one who reads.

What arrives is a number, a text, None, bytes, a builtin type, or a list, tuple, set or dict of such: no class of the sender, so nothing that it
overrides. Stands alone: it is copied into the sandbox.
"""

from __future__ import annotations

import builtins
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

SEQUENCES: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque}
MOST = 100_000
"""Elements that are taken from an iterator."""


def pack(value: Any, hold: Callable[[Any], int] | None = None) -> Any:
    """A value as JSON data; of a subclass, its plain part.

    Args:
        hold: keeps an object that is not plain data and gives its number, by which it can be named later; None refuses such objects.

    Raises:
        TypeError: not plain data.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return pack(kind(value), hold)
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": list(value)}
    if isinstance(value, dict):
        return {"dict": [[pack(key, hold), pack(item, hold)] for key, item in dict.items(value)]}
    for name, kind in SEQUENCES.items():
        if isinstance(value, kind):
            return {name: [pack(item, hold) for item in value]}
    if isinstance(value, Iterator):
        return {"iterator": [pack(item, hold) for item in islice(value, MOST)]}
    if type(value) is type and vars(builtins).get(value.__name__) is value:
        return {"type": value.__name__}
    if hold is None:
        raise TypeError(f"{type(value).__name__} is not plain data")
    return {"held": hold(value)}


def unpack(data: Any, held: Callable[[int], Any]) -> Any:
    """The value that JSON data stands for.

    Args:
        held: what stands for an object that the other side keeps, by its number.

    Raises:
        ValueError: data that `pack` does not make.
    """
    if data is None or isinstance(data, bool | int | float | str):
        return data
    if not isinstance(data, dict) or len(data) != 1:
        raise ValueError("not a packed value")
    (name, inner), = data.items()  # fmt: skip
    if name == "held":
        return held(int(inner))
    if name == "type" and isinstance(kind := vars(builtins).get(inner), type):
        return kind
    if not isinstance(inner, list):
        raise ValueError("not a packed value")
    if name == "complex":
        return complex(*map(float, inner))
    if name == "bytes":
        return bytes(inner)
    if name == "dict":
        return {unpack(key, held): unpack(item, held) for key, item in inner}
    if name == "iterator":
        return iter([unpack(item, held) for item in inner])
    if name in SEQUENCES:
        return SEQUENCES[name](unpack(item, held) for item in inner)
    raise ValueError("not a packed value")
