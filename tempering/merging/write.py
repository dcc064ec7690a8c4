"""Tensors into sharded safetensors as they are made: shapes are known before, so a file's header is written first and every tensor goes to the disk
at once. As many are made side by side as there are threads, each by its own: the operations of a merge are too short to be shared out well.

A journal in the folder names every finished shard with its checksum, after the shard has reached the disk. A merge that was killed and is started
again with the same inputs leaves finished shards as they are and makes the others anew.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tempering.home import sha256_file, write_atomic
from tempering.merging.read import DTYPES, Meta
from tempering.merging.sink import Sink

JOURNAL, CHECKSUMS = "journal.json", "checksums.json"
PIECE = 1 << 20
"""Bytes that are hashed and handed on at a time: they are in the processor's cache when they are copied."""
MAKERS = 4
"""Tensors made side by side, at most: each takes memory."""
_CODES = {dtype: code for code, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Slot:
    """A tensor of the result, before it is made."""

    name: str
    meta: Meta


def shards(slots: Sequence[Slot], most: int) -> dict[str, list[Slot]]:
    """File name -> its tensors: in the order given, a file is full before it would hold more than `most` bytes (one tensor may)."""
    found: list[list[Slot]] = [[]]
    size = 0
    for slot in slots:
        if found[-1] and size + slot.meta.bytes > most:
            found.append([])
            size = 0
        found[-1].append(slot)
        size += slot.meta.bytes
    if len(found) == 1:
        return {"model.safetensors": found[0]}
    return {f"model-{i:05d}-of-{len(found):05d}.safetensors": group for i, group in enumerate(found, 1)}


def write(folder: Path, slots: Sequence[Slot], make: Callable[[str], Tensor], key: str, most: int, say: Callable[[str], None] = print) -> None:
    """Make every tensor and write it.

    Args:
        folder: holds what an earlier attempt with the same `key` finished, or anything else, which is then thrown away.
        make: name -> the tensor, of the shape and type that its slot says.
        key: tells inputs apart: what was finished under another one is not kept.
        most: bytes of a file.
    """
    plan = shards(slots, most)
    done = _finished(folder, key, plan)
    if done:
        say(f"going on: {len(done)} of {len(plan)} files were finished before")
    for file, group in plan.items():
        if file not in done:
            done[file] = _shard(folder / file, group, make)
            write_atomic(folder / JOURNAL, json.dumps({"key": key, "done": done}))
    if len(plan) > 1:
        where = {slot.name: file for file, group in plan.items() for slot in group}
        index = {"metadata": {"total_size": sum(slot.meta.bytes for slot in slots)}, "weight_map": where}
        write_atomic(folder / "model.safetensors.index.json", json.dumps(index, indent=1) + "\n")
    write_atomic(folder / CHECKSUMS, json.dumps({file: done[file] for file in plan}, indent=1) + "\n")
    (folder / JOURNAL).unlink()


def _finished(folder: Path, key: str, plan: dict[str, list[Slot]]) -> dict[str, str]:
    try:
        journal = json.loads((folder / JOURNAL).read_text(encoding="utf-8"))
        done = journal["done"] if journal["key"] == key else {}
        done = {file: digest for file, digest in done.items() if file in plan and sha256_file(folder / file, remember=False) == digest}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        done = {}
    for path in folder.iterdir():
        if path.name not in done and path.is_file():
            path.unlink()
    return done


def _shard(path: Path, group: Sequence[Slot], make: Callable[[str], Tensor]) -> str:
    # The widest types first: then every tensor starts at a multiple of its own width, as readers that map the file need it.
    group = sorted(group, key=lambda slot: -slot.meta.dtype.itemsize)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for slot in group:
        header[slot.name] = {"dtype": _CODES[slot.meta.dtype], "shape": slot.meta.shape, "data_offsets": (at, at + slot.meta.bytes)}
        at += slot.meta.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with ThreadPoolExecutor(1) as behind, Sink(path) as sink:

        def put(raw: memoryview) -> None:
            for at in range(0, len(raw), PIECE):
                digest.update(raw[at : at + PIECE])
                sink.put(raw[at : at + PIECE])

        put(memoryview(len(text).to_bytes(8, "little") + text))
        waiting: Future[None] | None = None
        for slot, tensor in zip(group, _side_by_side(make, [slot.name for slot in group]), strict=True):
            made = tensor.contiguous()
            if made.shape != slot.meta.shape or made.dtype != slot.meta.dtype:
                raise ValueError(f"{slot.name} is {tuple(made.shape)} {made.dtype}, planned as {slot.meta}")
            if waiting is not None:
                waiting.result()
            # Hashing and writing let the next tensors be made meanwhile.
            waiting = behind.submit(put, made.view(-1).view(torch.uint8).numpy().data)
        if waiting is not None:
            waiting.result()
    return digest.hexdigest()


def _side_by_side(make: Callable[[str], Tensor], names: Sequence[str]) -> Iterator[Tensor]:
    """What is made of each name, in order."""
    threads = torch.get_num_threads()
    makers = min(MAKERS, threads)
    running = deque[Future[Tensor]]()
    # A thread that starts has as many threads of its own as this one has then.
    torch.set_num_threads(threads // makers)
    try:
        with ThreadPoolExecutor(makers) as pool:
            for name in names:
                running.append(pool.submit(make, name))
                # One more than are made at a time: nobody waits for work while a finished one waits to be hashed.
                if len(running) > makers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
    finally:
        torch.set_num_threads(threads)
