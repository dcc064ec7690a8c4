"""Data by name: worlds that a recipe can train on without a file (`--data builtin:tickets`). Each has a training and a held-out split."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tempering.errors import UserError
from tempering.types import Record
from tempering.worlds import demo
from tempering.worlds.preferences import Preferences

Records = Callable[[], Iterator[Record]]

BUILTIN: dict[str, tuple[Records, Records]] = {
    "tickets": (demo.real_train, demo.real_test),
    "people": (demo.tiny_train, lambda: demo.NEW.records("test", 120)),
    "preferences": (lambda: Preferences(noise=0.1).records("train", 2000), lambda: Preferences().records("test", 120)),
}
"""name -> (training records, held-out records)."""


@dataclass(frozen=True)
class BuiltinSource:
    """A world's records, as `data.read` would give those of a file."""

    name: str
    records: Records
    limit: int | None = None
    shape: str = "records"

    def __iter__(self) -> Iterator[Record]:
        for i, record in enumerate(self.records()):
            if self.limit is not None and i >= self.limit:
                return
            yield record

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the records themselves."""
        digest = hashlib.sha256()
        for record in self:
            digest.update(json.dumps(dataclasses.asdict(record), sort_keys=True, default=str).encode())
        return digest.hexdigest()


def builtin(name: str, split: str = "train", limit: int | None = None) -> BuiltinSource:
    """The records of `builtin:NAME`.

    Args:
        split: "train" or "test".
        limit: at most this many records.

    Raises:
        UserError: no world of that name.
    """
    short = name.removeprefix("builtin:")
    if short not in BUILTIN:
        near = difflib.get_close_matches(short, BUILTIN, n=1)
        hint = f"did you mean builtin:{near[0]}?" if near else f"there are {', '.join(f'builtin:{n}' for n in BUILTIN)}"
        raise UserError(f"data {name}: there is no built-in data of that name; {hint}")
    return BuiltinSource(name, BUILTIN[short][split == "test"], limit)
