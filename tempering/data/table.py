"""Rows on disk: built once while streaming, opened in constant time, read by memory map.

A table is a folder of flat arrays, one set per part (all ids end to end, all weights, where each segment and each row ends, extras, sources), and a
manifest with counts and checksums. It is written under a temporary name beside its place and renamed when whole, so that a table either is there or
is not. Every row has the same parts, and within a part every segment the same extras.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tempering.errors import UserError
from tempering.types import Row, Segment

MANIFEST = "manifest.json"
VERSION = 1


class Table:
    """A memory-mapped table of rows: `len(table)`, `table[i]`, iteration. Arrays of rows are read-only views of the files."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self._maps: dict[str, np.ndarray] = {}

    @classmethod
    def build(cls, rows: Iterable[Row], folder: str | Path, *, overwrite: bool = False) -> Table:
        """Write rows, one at a time, and open the result.

        Arguments:
            rows: any iterable; may be larger than memory.
            folder: must not exist yet, unless `overwrite` and it is a table.

        Raises UserError if the folder exists, if rows differ in parts or extras, or if the disk is full or read-only; then nothing is left behind.
        """
        folder = Path(folder)
        if folder.exists() and not (overwrite and (folder / MANIFEST).exists()):
            raise UserError(f"{folder}: exists already" + ("; give another folder." if overwrite else "; give another folder, or overwrite=True."))
        work: Path | None = None
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
            _write(rows, work)
            os.chmod(work, 0o755)
            if folder.exists():
                old = work.with_suffix(".old")
                os.rename(folder, old)
                os.rename(work, folder)
                shutil.rmtree(old)
            else:
                os.rename(work, folder)
        except OSError as error:
            raise UserError(f"{folder}: the table cannot be written ({error.strerror or error}); free space or choose another folder.") from error
        finally:
            if work is not None:
                shutil.rmtree(work, ignore_errors=True)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | Path) -> Table:
        """Open a table without reading its arrays. Raises UserError if it is missing, of another version, or a file is cut off."""
        folder = Path(folder)
        try:
            manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
            files = {str(name): int(entry["bytes"]) for name, entry in manifest["files"].items()}
            version = manifest["version"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{folder}: is no table of rows ({type(error).__name__} in {MANIFEST}); build it again.") from None
        if version != VERSION:
            raise UserError(f"{folder}: is a table of version {version}, but this tempering reads version {VERSION}; build it again.")
        for name, size in files.items():
            found = (folder / name).stat().st_size if _plain(name) and (folder / name).is_file() else -1
            if found != size:
                raise UserError(f"{folder / name}: has {max(found, 0)} bytes, but the manifest says {size}; the table is damaged, build it again.")
        return cls(folder, manifest)

    def __len__(self) -> int:
        return self.manifest["rows"]

    def __getitem__(self, index: int) -> Row:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of a table with {len(self)} rows")
        index %= len(self)
        row = {}
        for part in self.manifest["parts"]:
            first, last = self._file(part, "rows")[index : index + 2]
            row[part] = tuple(self._segment(part, int(s)) for s in range(first, last))
        return row

    def __iter__(self) -> Iterator[Row]:
        return (self[i] for i in range(len(self)))

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.manifest["parts"])

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over the checksums of all files."""
        return self.manifest["sha256"]

    def lengths(self, part: str) -> np.ndarray:
        """Tokens of each segment of a part, int64 [segments]."""
        return np.diff(self._file(part, "ends"))

    def row_lengths(self) -> np.ndarray:
        """Tokens of each row over all its parts, int64 [rows]."""
        total = np.zeros(len(self), np.int64)
        for part in self.parts:
            total += np.diff(np.asarray(self._file(part, "ends"))[self._file(part, "rows")])
        return total

    def with_column(self, part: str, name: str, values: Iterable[np.ndarray | float]) -> Table:
        """Add an extra to every segment of a part, for example a cached "reference.logp", and return the table opened anew.

        `values` gives one array [tokens of the segment], or one float, for each segment in order. Raises UserError if the part is missing, the name
        is taken, or lengths differ; then the table is as before.
        """
        spec = self.manifest["parts"].get(part)
        if spec is None:
            raise UserError(f'{self.folder}: has no part "{part}"; its parts are: {", ".join(self.parts)}.')
        if name in spec["extras"]:
            raise UserError(f'{self.folder}: part "{part}" has the column "{name}" already; choose another name.')
        column = _Column(self.folder, f"{_file_name(part, 'extra.' + name)}.new")
        final = self.folder / _file_name(part, "extra." + name)
        lengths, count = self.lengths(part), 0
        try:
            for count, value in enumerate(values, 1):
                if count > len(lengths):
                    break
                column.add(value, int(lengths[count - 1]), f'{self.folder}: column "{name}" of part "{part}", segment {count - 1}')
            if count != len(lengths):
                what = "more" if count > len(lengths) else f"only {count}"
                raise UserError(
                    f'{self.folder}: column "{name}" has {what} values for the {len(lengths)} segments of part "{part}"; give one for each.'
                )
            entry = column.close()
            manifest = json.loads(json.dumps(self.manifest))
            manifest["parts"][part]["extras"][name] = column.kind
            manifest["files"][final.name] = entry
            manifest["sha256"] = _digest(manifest["files"])
            os.replace(column.path, final)
            _write_manifest(self.folder, manifest)
        except OSError as error:
            raise UserError(f"{self.folder}: the column cannot be written ({error.strerror or error}); free space or check permissions.") from error
        finally:
            column.abandon()
        return Table.open(self.folder)

    def verify(self) -> None:
        """Read every file and compare its checksum; raises UserError for the first that differs."""
        for name, entry in self.manifest["files"].items():
            with open(self.folder / name, "rb") as handle:
                if hashlib.file_digest(handle, "sha256").hexdigest() != entry["sha256"]:
                    raise UserError(f"{self.folder / name}: the checksum differs from the manifest's; the table is damaged, build it again.")

    def _segment(self, part: str, s: int) -> Segment:
        a, b = (int(x) for x in self._file(part, "ends")[s : s + 2])
        extras: dict[str, Any] = {}
        for name, kind in self.manifest["parts"][part]["extras"].items():
            column = self._file(part, "extra." + name)
            extras[name] = float(column[s]) if kind == "float" else column.reshape(-1, *_wide(kind))[a:b]
        c, d = (int(x) for x in self._file(part, "source_ends")[s : s + 2])
        source = self._file(part, "sources")[c:d].tobytes().decode("utf-8")
        return Segment(self._file(part, "ids")[a:b], self._file(part, "weights")[a:b], extras, source)

    def _file(self, part: str, what: str) -> np.ndarray:
        key = _file_name(part, what)
        if key not in self._maps:
            if part not in self.manifest["parts"]:
                raise UserError(f'{self.folder}: has no part "{part}"; its parts are: {", ".join(self.parts)}.')
            entry = self.manifest["files"][key]
            dtype = np.dtype(entry["dtype"])
            # an empty file cannot be mapped
            self._maps[key] = np.memmap(self.folder / key, dtype, "r").view(np.ndarray) if entry["bytes"] else np.zeros(0, dtype)
        return self._maps[key]


def _wide(kind: str) -> tuple[int, ...]:
    """ "<f4*5" -> (5,); "<f4" -> ()."""
    return tuple(map(int, kind.split("*")[1:]))


class _Array:
    """A flat file of one dtype, appended to, with its checksum."""

    def __init__(self, folder: Path, name: str, dtype: Any) -> None:
        self.path, self.dtype = folder / name, np.dtype(dtype)
        self.handle: BinaryIO = open(self.path, "wb")  # noqa: SIM115
        self.sha, self.bytes = hashlib.sha256(), 0

    def add(self, values: Any) -> None:
        raw = np.ascontiguousarray(values, self.dtype).tobytes()
        self.sha.update(raw)
        self.bytes += self.handle.write(raw)

    def close(self) -> dict[str, Any]:
        self.handle.close()
        return {"dtype": self.dtype.str, "bytes": self.bytes, "sha256": self.sha.hexdigest()}


class _Column:
    """An extra of all segments of a part: floats, or arrays per token ("<f4"), or several numbers per token ("<f4*5"); the first value decides."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.kind, self.array = "", None

    @property
    def path(self) -> Path:
        return self.folder / self.name

    def add(self, value: Any, length: int, where: str) -> None:
        is_float = isinstance(value, (int, float, np.floating, np.integer)) and not isinstance(value, bool)
        array = isinstance(value, np.ndarray) and value.shape[:1] == (length,) and value.ndim <= 2 and value.dtype.kind in "fiub"
        if not is_float and not array:
            shape, sizes = getattr(value, "shape", type(value).__name__), f"[{length}] or [{length}, K]"
            raise UserError(f"{where}: the value must be a number or an array {sizes} of numbers, but is {shape}; make its length the segment's.")
        dtype = np.dtype(np.float64) if is_float else np.asarray(value).dtype
        kind = "float" if is_float else "*".join([dtype.str, *map(str, np.shape(value)[1:])])
        if self.array is None:
            self.kind, self.array = kind, _Array(self.folder, self.name, dtype)
        if kind != self.kind:
            raise UserError(f"{where}: the value is of kind {kind}, but the first segment's was {self.kind}; use one kind for a column.")
        self.array.add([value] if is_float else value)

    def close(self) -> dict[str, Any]:
        if self.array is None:
            self.kind, self.array = "float", _Array(self.folder, self.name, np.float64)
        return self.array.close()

    def abandon(self) -> None:
        if self.array is not None:
            self.array.handle.close()
        self.path.unlink(missing_ok=True)


class _Part:
    """Writes one part of all rows."""

    def __init__(self, folder: Path, part: str) -> None:
        self.folder, self.part = folder, part
        self.files: dict[str, _Array] = {}
        self.columns: dict[str, _Column] | None = None
        self.segments = self.tokens = self.trained = self.source_end = 0

    def begin(self) -> None:
        """Open the files; apart from construction, so that what was opened is closed if one fails."""
        kinds = {"ids": "<i4", "weights": "<f4", "ends": "<i8", "rows": "<i8", "sources": "u1", "source_ends": "<i8"}
        for what, dtype in kinds.items():
            self.files[what] = _Array(self.folder, _file_name(self.part, what), dtype)
        for what in ("ends", "rows", "source_ends"):
            self.files[what].add([0])

    def add(self, segments: Sequence[Segment]) -> None:
        for s in segments:
            where = f'{s.source or f"segment {self.segments}"}: part "{self.part}"'
            ids, weight = np.asarray(s.ids), np.asarray(s.weight)
            if ids.ndim != 1 or ids.shape != weight.shape:
                raise UserError(f"{where}: ids {ids.shape} and weights {weight.shape} must be flat and equally long; rebuild the segment.")
            if self.columns is None:
                self.columns = {name: _Column(self.folder, _file_name(self.part, "extra." + name)) for name in s.extras}
            if set(s.extras) != set(self.columns):
                raise UserError(f"{where}: has the extras {sorted(s.extras)}, but the first segment has {sorted(self.columns)}; give all the same.")
            for name, column in self.columns.items():
                column.add(s.extras[name], len(ids), f'{where}, extra "{name}"')
            source = s.source.encode("utf-8")
            self.segments += 1
            self.tokens += len(ids)
            self.trained += int(np.count_nonzero(weight))
            self.source_end += len(source)
            self.files["ids"].add(ids)
            self.files["weights"].add(weight)
            self.files["ends"].add([self.tokens])
            self.files["sources"].add(np.frombuffer(source, np.uint8))
            self.files["source_ends"].add([self.source_end])
        self.files["rows"].add([self.segments])

    def close(self) -> tuple[dict[str, Any], dict[str, Any]]:
        files = {a.path.name: a.close() for a in self.files.values()}
        files |= {c.name: c.close() for c in (self.columns or {}).values()}
        extras = {name: c.kind for name, c in (self.columns or {}).items()}
        return {"segments": self.segments, "tokens": self.tokens, "trained_tokens": self.trained, "extras": extras}, files


def _write(rows: Iterable[Row], folder: Path) -> None:
    parts: dict[str, _Part] = {}
    manifest: dict[str, Any] = {"version": VERSION, "rows": 0, "parts": {}, "files": {}}
    try:
        for row in rows:
            if not manifest["rows"]:
                for name in row:
                    parts[name] = _Part(folder, name)
                    parts[name].begin()
            if row.keys() != parts.keys():
                raise UserError(
                    f"row {manifest['rows']}: has the parts {sorted(row)}, but the first row has {sorted(parts)}; give all rows the same parts."
                )
            for name, part in parts.items():
                part.add(row[name])
            manifest["rows"] += 1
    finally:
        closed = {name: part.close() for name, part in parts.items()}
    for name, (counts, files) in closed.items():
        manifest["parts"][name] = counts
        manifest["files"] |= files
    manifest["tokens"] = sum(p["tokens"] for p in manifest["parts"].values())
    manifest["trained_tokens"] = sum(p["trained_tokens"] for p in manifest["parts"].values())
    manifest["sha256"] = _digest(manifest["files"])
    _write_manifest(folder, manifest)


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    part = folder / f"{MANIFEST}.new"
    part.write_text(json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False), "utf-8")
    os.replace(part, folder / MANIFEST)


def _digest(files: Mapping[str, Mapping[str, Any]]) -> str:
    return hashlib.sha256(json.dumps([[n, files[n]["dtype"], files[n]["sha256"]] for n in sorted(files)]).encode()).hexdigest()


def _file_name(part: str, what: str) -> str:
    name = f"{part}.{what}"
    if not _plain(name):
        raise UserError(f'"{part}" and "{what}" make no file name; use letters, digits, ".", "-" and "_" for parts and extras.')
    return name


def _plain(name: str) -> bool:
    return bool(name) and all(c.isalnum() or c in "._-" for c in name) and not name.startswith(".")
