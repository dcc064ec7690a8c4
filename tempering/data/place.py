"""Where a piece of data stands, and the error that says so.

Every error about data is a `DataError`: a `UserError` that begins with file and line, says what was expected and how to mend it, and carries a short
code so that `check` can count the same mistake over a whole file instead of stopping at the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tempering.errors import UserError

SHOWN = 60
"""Characters of a wrong value that an error quotes."""


class DataError(UserError):
    """Wrong data: `code` names the kind of mistake, `source` the record ("train.jsonl:12")."""

    def __init__(self, message: str, *, code: str = "unreadable", source: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.source = source


@dataclass(frozen=True)
class Place:
    """A file and a line (one-based; for Parquet, `datasets` and JSON lists the record's number after "#")."""

    file: str
    """As the user typed it, for errors."""
    number: int
    name: str = ""
    """The file's short name, for `Record.source`."""
    unit: str = ":"

    def __str__(self) -> str:
        return f"{self.file}{self.unit}{self.number}"

    @property
    def source(self) -> str:
        return f"{self.name or self.file}{self.unit}{self.number}"

    def error(self, sentence: str, code: str = "unreadable") -> DataError:
        """A `DataError` that begins with this place; `sentence` says what is wrong and how to mend it."""
        return DataError(f"{self}: {sentence}", code=code, source=self.source)


def quote(value: Any) -> str:
    """A short, escaped picture of a value from a file: safe to print in a terminal."""
    text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
