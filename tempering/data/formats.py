"""Files to rows: every format yields (line, object) pairs lazily, and names file and line for what it cannot read.

Line formats (JSON Lines, CSV, TSV, text) are read in constant memory, also gzipped. Bytes are decoded line by line, so that broken UTF-8 is named by
line and byte offset; a byte order mark at the front is skipped.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from tempering.data.place import DataError, Place, quote
from tempering.errors import UserError

Raw = str | Mapping[str, Any]
"""An object, or a JSON line not parsed yet: so that `check` can count broken lines instead of stopping at the first."""
Rows = Iterator[tuple[Place, Raw]]

PIECE = 65_536
"""Characters of a record cut from a plain text file."""
SUFFIXES: tuple[str, ...] = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")


def kind_of(path: Path) -> str | None:
    """The format by the file's name ("train.jsonl.gz" -> ".jsonl"), or None."""
    suffix = Path(path.name[:-3]).suffix if path.name.endswith(".gz") else path.suffix
    return {".ndjson": ".jsonl"}.get(suffix.lower(), suffix.lower()) if suffix.lower() in SUFFIXES else None


def rows_of(path: Path, shown: str, name: str, max_line_mib: float) -> Rows:
    """All rows of one file, by its format. `shown` is the path in errors, `name` the short one in sources."""
    kind = kind_of(path)
    limit = int(max_line_mib * 2**20)
    readers: dict[str, Callable[[], Rows]] = {
        ".jsonl": lambda: _jsonl(path, shown, name, limit),
        ".json": lambda: _json(path, shown, name, limit),
        ".csv": lambda: _csv(path, shown, name, limit, ","),
        ".tsv": lambda: _csv(path, shown, name, limit, "\t"),
        ".txt": lambda: _text(path, shown, name, limit),
        ".parquet": lambda: _parquet(path, shown, name),
    }
    if kind is None:
        raise UserError(
            f"{shown}: the format {path.suffix or 'without a suffix'} is not known; use one of {', '.join(SUFFIXES)} (lines also with .gz)."
        )
    try:
        yield from readers[kind]()
    except DataError:
        raise
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{shown}: the gzip file is broken ({error}); compress it again or copy it anew.") from None
    except OSError as error:
        raise UserError(f"{shown}: cannot be read ({error.strerror or error}); check the path and its permissions.") from None


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.name.endswith(".gz") else open(path, "rb")  # type: ignore[return-value]


def _lines(path: Path, shown: str, name: str, limit: int) -> Iterator[tuple[Place, str]]:
    """Decoded lines with their line end, none longer than `limit` bytes."""
    offset = 0
    with _open(path) as handle:
        for number in range(1, 2**62):
            raw = handle.readline(limit + 1)
            if not raw:
                return
            where = Place(shown, number, name)
            if len(raw) > limit:
                raise where.error(
                    f"the line is longer than {limit / 2**20:g} MiB; if it is one record, allow it with max_line_mib=N, if not, check the line ends",
                    "long_line",
                )
            if number == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise where.error(f"the file is UTF-16, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8 {shown}", "encoding")
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                at = error.start + (3 if number == 1 and raw[:3] == b"\xef\xbb\xbf" else 0)
                raise where.error(
                    f"not UTF-8: byte 0x{raw[at]:02x} at offset {offset + at} of the file (byte {at + 1} of the line); convert the file to UTF-8",
                    "encoding",
                ) from None
            offset += len(raw)
            yield where, text


def _load(text: str, where: Place) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise where.error("the JSON is nested too deeply to be a record; flatten it", "not_json") from None
    except ValueError as error:
        at = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise where.error(f"not JSON{at} ({what}): {quote(text.strip())}; write one JSON object a line", "not_json") from None


def _object(value: Any, where: Place) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise where.error(f"a record must be a JSON object with named fields, but is {quote(value)}; write {{...}}", "not_object")
    return value


def _jsonl(path: Path, shown: str, name: str, limit: int) -> Rows:
    for where, line in _lines(path, shown, name, limit):
        if line.strip():
            yield where, line


def settle(row: Raw, where: Place) -> Mapping[str, Any]:
    """The object of a row. Raises DataError for a line that is no JSON object; reading can go on with the next row."""
    return _object(_load(row, where), where) if isinstance(row, str) else row


def _json(path: Path, shown: str, name: str, limit: int) -> Rows:
    """A list of objects, an object with one list in it, or JSON Lines under the wrong name."""
    lines = _lines(path, shown, name, limit)
    head: list[tuple[Place, str]] = []
    for where, line in lines:
        head.append((where, line))
        if line.strip():
            break
    first = head[-1][1].strip() if head else ""
    if first.startswith("{"):
        try:
            json.loads(first)
        except (ValueError, RecursionError):
            pass
        else:
            second = next(((w, t) for w, t in lines if t.strip()), None)
            if second is not None:
                for where, line in chain([head[-1], second], lines):
                    if line.strip():
                        yield where, line
                return
    text = "".join(t for _, t in chain(head, lines))
    if not text.strip():
        return
    where = Place(shown, 1, name)
    try:
        value = json.loads(text)
    except RecursionError:
        raise where.error("the JSON is nested too deeply to be records; flatten it", "not_json") from None
    except json.JSONDecodeError as error:
        raise Place(shown, error.lineno, name).error(
            f"not JSON at column {error.colno} ({error.msg}); write a list of objects: [{{...}}, ...]", "not_json"
        ) from None
    if isinstance(value, dict):
        lists = [k for k, v in value.items() if isinstance(v, list) and v and all(isinstance(x, dict) for x in v[:3])]
        value = value[lists[0]] if len(lists) == 1 and lists[0] not in ("messages", "conversations") else [value]
    if not isinstance(value, list):
        raise where.error(f"the file must hold a list of objects, but holds {quote(value)}; write [{{...}}, ...]", "not_object")
    for number, item in enumerate(value, 1):
        place = Place(shown, number, name, "#")
        yield place, _object(item, place)


def _csv(path: Path, shown: str, name: str, limit: int, comma: str) -> Rows:
    csv.field_size_limit(max(limit, csv.field_size_limit()))
    reader = csv.reader((line for _, line in _lines(path, shown, name, limit)), delimiter=comma, strict=True)
    header: list[str] | None = None
    while True:
        where = Place(shown, reader.line_num + 1, name)
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise where.error(f"not CSV ({error}); quote fields that hold quotes, commas or line ends", "not_csv") from None
        if not cells:
            continue
        if header is None:
            header = [c.strip() for c in cells]
            if len(set(header)) < len(header) or "" in header:
                raise where.error(f"the header must name every column once, but is {quote(header)}; name the columns", "not_csv")
            continue
        if len(cells) != len(header):
            raise where.error(f"{len(cells)} cells but {len(header)} columns ({quote(header)}); quote fields that hold the separator", "not_csv")
        yield where, dict(zip(header, cells, strict=True))


def _text(path: Path, shown: str, name: str, limit: int) -> Rows:
    """Pieces of up to `PIECE` characters, cut at an empty line where the second half has one, else at a line end, else in the line."""
    start, lines, size, blank, first = 1, [], 0, None, True
    for where, line in chain(_lines(path, shown, name, limit), [(None, "")]):
        while where is None or size + len(line) > PIECE:
            if not lines and where is not None:
                # one line longer than a piece: cut in the line
                yield Place(shown, where.number, name), _piece(line[:PIECE], first, False)
                line, first = line[PIECE:], False
                continue
            cut = blank if where is not None and blank is not None and sum(map(len, lines[:blank])) > PIECE // 2 else len(lines)
            text = "".join(lines[:cut])
            if text.strip():
                yield Place(shown, start, name), _piece(text, first, where is None)
                first = False
            start, lines, blank = start + cut, lines[cut:], None
            size = sum(map(len, lines))
            if where is None:
                return
        lines.append(line)
        size += len(line)
        if not line.strip():
            blank = len(lines)
        if len(lines) == 1:
            start = where.number


def _piece(text: str, begins: bool, ends: bool) -> Mapping[str, Any]:
    return {"text": text, "begins": begins, "ends": ends}


def _parquet(path: Path, shown: str, name: str) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            number = 0
            for batch in table.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield Place(shown, number, name, "#"), row
    except pyarrow.ArrowException as error:
        raise UserError(f"{shown}: not a readable Parquet file ({str(error).splitlines()[0][:120]}); write it again.") from None
