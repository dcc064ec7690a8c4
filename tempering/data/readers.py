"""Reading what people have: a file, a folder of files, a `datasets` folder or a hub id becomes a lazy, repeatable source of `Record`s.

The first row is looked at when the source is made, so that the shape is said (or refused) before anything else happens. Iterating reads the file
again from the front. In automatic mode every row is recognised anew: a file of two shapes is refused with both lines named.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tempering.data import shapes
from tempering.data.formats import SUFFIXES, Raw, Rows, kind_of, rows_of, settle
from tempering.data.place import DataError, Place
from tempering.errors import UserError
from tempering.types import Record

MAX_LINE_MIB = 64.0
ID_MEMORY = 200_000
"""Explicit ids remembered to find duplicates while reading: bounds memory; later ids are not compared."""
SPLITS = ("train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval")
HUB = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+)?$")


@dataclass(frozen=True)
class RecordSource:
    """Records of a source, lazily and repeatedly. `errors_to` of `records` goes on after a wrong row, for `check`."""

    name: str
    """The source as the user typed it."""
    shape: str
    """The shape of its rows: recognised or forced."""
    wish: shapes.Wish
    limit: int | None
    _rows: Callable[[], Rows] = field(repr=False)
    _hash: Callable[[], str] = field(repr=False)

    def __iter__(self) -> Iterator[Record]:
        return self.records()

    def records(self, errors_to: Callable[[DataError], None] | None = None) -> Iterator[Record]:
        """All records. A wrong row raises its DataError, or is handed to `errors_to` and left out.

        Raises UserError where reading cannot go on (broken UTF-8 or gzip, a line that is too long).
        """
        first: tuple[Place, shapes.Match] | None = None
        seen: dict[str, str] = {}
        for count, (where, raw) in enumerate(self._rows()):
            if self.limit is not None and count >= self.limit:
                return
            try:
                found, row = _recognise(raw, where, self.wish, first)
                first = first or (where, found)
                record = found.convert(row, where)
                _unique(record, where, seen)
            except DataError as error:
                if errors_to is None:
                    raise
                errors_to(error)
                continue
            yield record

    def count(self) -> int:
        """How many records; reads the whole source."""
        return sum(1 for _ in self)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of the content together with shape and limit; reads the whole source once."""
        wish = f"{self.shape}:{sorted(self.wish.fields.items())}:{self.limit}"
        return hashlib.sha256(f"{wish}\n{self._hash()}".encode()).hexdigest()


def read(
    source: str,
    *,
    shape: str = "auto",
    split: str | None = None,
    limit: int | None = None,
    say: Callable[[str], None] = print,
    max_line_mib: float = MAX_LINE_MIB,
) -> RecordSource:
    """Open a source of records and say which shape its rows have.

    Arguments:
        source: a file (.jsonl, .json, .csv, .tsv, .txt, each also .gz; .parquet), a folder of such files or of `datasets.save_to_disk`, or a hub id
            (`owner/name`, `owner/name:config`; `hub:name` forces one).
        shape: "auto", a name of `shapes.NAMES`, or a name with fields: "prompt_completion:prompt=query,completion=gold".
        split: which split of a folder or hub dataset.
        limit: at most so many rows from the front.
        say: takes the sentence that names the shape.
        max_line_mib: longest line of a line format, in MiB; a longer one is refused.

    Raises UserError with file and line for everything that cannot be read; nothing is skipped silently.
    """
    wish = shapes.parse(shape)
    if limit is not None and (isinstance(limit, bool) or limit < 1):
        raise UserError(f"limit is {limit}, but must be at least 1; leave it out to read everything.")
    rows, content = _open(source, split, max_line_mib)
    where, raw = next(rows(), (None, None))
    if where is None or raw is None:
        raise UserError(f"{source}: holds no records; check that it is the right file, and that it was written to its end.")
    found, row = _recognise(raw, where, wish, None)
    say(f"{source}: {shapes.sentence(found, row)}.")
    return RecordSource(source, found.shape.name, wish, limit, rows, content)


def _recognise(raw: Raw, where: Place, wish: shapes.Wish, first: tuple[Place, shapes.Match] | None) -> tuple[shapes.Match, Mapping[str, Any]]:
    row = settle(raw, where)
    try:
        found = shapes.recognise(row, where, wish)
    except DataError as error:
        if first is None or error.code != "no_shape":
            raise
        raise _mixed(where, "a row in which that shape is not found", row, first) from None
    if first is not None and found.shape.name != first[1].shape.name:
        raise _mixed(where, f'a row of shape "{found.shape.name}"', row, first)
    return found, row


def _mixed(where: Place, what: str, row: Mapping[str, Any], first: tuple[Place, shapes.Match]) -> DataError:
    names = ", ".join(f'"{str(k)[:30]}"' for k in list(row)[:8]) or "none"
    return where.error(
        f'{what} (fields {names}), but {first[0]} has shape "{first[1].shape.name}"; split the file by shape, or force one with shape=NAME', "mixed"
    )


def _unique(record: Record, where: Place, seen: dict[str, str]) -> None:
    if record.id == record.source or len(seen) >= ID_MEMORY:
        return
    if record.id in seen:
        raise where.error(
            f"the id {record.id[:60]!r} is already that of {seen[record.id]}; give every record its own id, or remove the ids", "duplicate_id"
        )
    seen[record.id] = str(where)


def _open(source: str, split: str | None, max_line_mib: float) -> tuple[Callable[[], Rows], Callable[[], str]]:
    """A function that starts reading, and one that hashes the content."""
    if not source.strip():
        raise UserError("the data source is empty; give a file, a folder or a hub id.")
    if source.startswith("hub:"):
        return _hub(source[4:], split)
    path = Path(source).expanduser()
    try:
        exists, is_dir = path.exists(), path.is_dir()
    except (OSError, ValueError) as error:
        raise UserError(f"{source[:80]!r} cannot be looked at ({error}); check the path.") from None
    if is_dir and ((path / "dataset_info.json").exists() or (path / "state.json").exists() or (path / "dataset_dict.json").exists()):
        return _datasets_folder(path, split)
    if is_dir:
        files = _files(path, split)
    elif exists:
        if split is not None:
            raise UserError(f"{source}: a single file has no splits; leave split={split!r} out.")
        files = [(path, source, path.name)]
    elif HUB.match(source) and kind_of(path) is None and not path.parent.exists():
        return _hub(source, split)
    else:
        raise UserError(f"{source}: {_missing(path)}")
    return lambda: _chain(files, max_line_mib), lambda: _hash(files)


def _chain(files: list[tuple[Path, str, str]], max_line_mib: float) -> Rows:
    for path, shown, name in files:
        yield from rows_of(path, shown, name, max_line_mib)


def _hash(files: list[tuple[Path, str, str]]) -> str:
    whole = hashlib.sha256()
    for path, shown, name in files:
        try:
            with open(path, "rb") as handle:
                whole.update(f"{name}:{hashlib.file_digest(handle, 'sha256').hexdigest()}\n".encode())
        except OSError as error:
            raise UserError(f"{shown}: cannot be read ({error.strerror or error}); check the path and its permissions.") from None
    return whole.hexdigest()


def _files(folder: Path, split: str | None) -> list[tuple[Path, str, str]]:
    found = sorted(
        p for p in folder.rglob("*") if p.is_file() and kind_of(p) and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )
    if not found:
        raise UserError(f"{folder}: no data files in this folder; it should hold files of {', '.join(SUFFIXES)}.")
    named = {p: _split_of(p.relative_to(folder)) for p in found}
    splits = sorted({s for s in named.values() if s})
    if split is not None:
        chosen = [p for p in found if named[p] == split or p.name.split(".")[0] == split]
        if not chosen:
            raise UserError(f"{folder}: no split {split!r}; there are: {', '.join(splits) or 'none, so leave split out'}.")
        found = chosen
    elif len(splits) > 1:
        raise UserError(f"{folder}: holds the splits {', '.join(splits)}; say which with split=NAME (--split NAME).")
    return [(p, str(p), str(p.relative_to(folder))) for p in found]


def _split_of(path: Path) -> str | None:
    words = [*path.parts[:-1], re.split(r"[-_.]", path.name)[0]]
    return next((w.lower() for w in words if w.lower() in SPLITS), None)


def _missing(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return f"no such file or folder (the folder {parent} is missing too); check the path, or write owner/name for a hub dataset."
    names = [p.name for p in parent.iterdir() if not p.name.startswith(".")]
    near = difflib.get_close_matches(path.name, names, 3, 0.5)
    hint = f"near names in {parent}: {', '.join(near)}" if near else "check the path, or write owner/name for a hub dataset"
    return f"no such file or folder; {hint}."


def _from_dataset(data: Any, shown: str) -> tuple[Callable[[], Rows], Callable[[], str]]:
    def rows() -> Rows:
        for number, row in enumerate(data, 1):
            yield Place(shown, number, shown, "#"), row

    return rows, lambda: str(data._fingerprint)


def _pick(data: Any, shown: str, split: str | None) -> Any:
    if not hasattr(data, "keys"):
        if split is not None:
            raise UserError(f"{shown}: has no splits; leave split={split!r} out.")
        return data
    names = sorted(data.keys())
    if split is None and len(names) > 1:
        raise UserError(f"{shown}: holds the splits {', '.join(names)}; say which with split=NAME (--split NAME).")
    if split is not None and split not in names:
        raise UserError(f"{shown}: no split {split!r}; there are: {', '.join(names)}.")
    return data[split or names[0]]


def _datasets_folder(path: Path, split: str | None) -> tuple[Callable[[], Rows], Callable[[], str]]:
    import datasets

    try:
        data = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable `datasets` folder ({str(error)[:120]}); write it again with save_to_disk.") from None
    return _from_dataset(_pick(data, str(path), split), path.name)


def _hub(source: str, split: str | None) -> tuple[Callable[[], Rows], Callable[[], str]]:
    import datasets
    from datasets.exceptions import DatasetsError

    name, _, config = source.partition(":")
    try:
        data = datasets.load_dataset(name, config or None)
    except (OSError, ValueError, DatasetsError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise UserError(f"{source}: no such file here, and as a hub dataset it cannot be loaded ({said}); check the name and the network.") from None
    return _from_dataset(_pick(data, source, split), source)
