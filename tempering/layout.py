"""How segments are laid out in the rows of a forward pass, and how a step is cut into micro-batches.

A `Batch` is flat: segments end to end, no padding. A `Layout` places its tokens in a grid of rows and columns: all segments in one row, where common
prefixes stand once ("segments", see forest.py), several segments a row ("packed", first-fit decreasing), or one segment a row ("padded"). Results are
read back by slot, so nothing downstream can tell which layout was used.

Packing relies on position ids that restart at 0 for every segment: with no attention mask and no cache, transformers derives block-diagonal attention
from them, for sliding windows too. Padding tokens in a packed row are segments of their own (position 0), so no row of the mask is empty. In a
padded row padding stands on the right, where causal attention never looks at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tempering.forest import Plan, plant
from tempering.types import Batch, Parts, Row, Segment

LayoutKind = Literal["segments", "packed", "padded"]


@dataclass(frozen=True)
class Layout:
    """ids_RL and position_RL feed the model; slot_T says where each token of the flat batch stands in the flattened grid; `plan` (layout "segments"
    alone) says what attends to what."""

    ids_RL: Tensor
    position_RL: Tensor
    slot_T: Tensor
    plan: Plan | None = None


def lengths(batch: Batch) -> Tensor:
    """Tokens of each segment [S]."""
    return torch.bincount(batch.segment_T, minlength=batch.num_segments)


def arrange(batch: Batch, kind: LayoutKind, *, row_tokens: int | None = None, pad_id: int = 0, share: bool = True) -> Layout:
    """Place the batch's tokens in rows.

    Args:
        batch: flat batch on any device.
        kind: "segments" (one row for all), "packed" (several, up to `row_tokens` a row) or "padded" (one segment a row).
        row_tokens: capacity of a packed row in tokens; at least the longest segment (the default).
        pad_id: token id of the filling.
        share: in the layout "segments", let common prefixes stand once.
    """
    length_S = lengths(batch).tolist()
    if kind == "segments":
        device = batch.ids_T.device
        forest = plant([ids.numpy() for ids in batch.ids_T.cpu().split(length_S)], share=share)
        ids, position, slot = (torch.from_numpy(x).to(device) for x in (forest.ids_N, forest.position_N, forest.slot_T))
        return Layout(ids[None], position[None], slot, Plan(forest.nodes))
    start_S = [0] * len(length_S)
    for i in range(1, len(length_S)):
        start_S[i] = start_S[i - 1] + length_S[i - 1]
    longest = max(length_S, default=1)
    rows = [[i] for i in range(len(length_S))] if kind == "padded" else _first_fit(length_S, max(row_tokens or 0, longest))
    width = max((sum(length_S[i] for i in row) for row in rows), default=1)

    slot = torch.empty(batch.num_tokens, dtype=torch.long)
    position = torch.zeros(len(rows) * width, dtype=torch.long)
    if kind == "padded":
        position = torch.arange(width).repeat(len(rows))
    for r, row in enumerate(rows):
        at = r * width
        for i in row:
            n = length_S[i]
            slot[start_S[i] : start_S[i] + n] = torch.arange(at, at + n)
            position[at : at + n] = torch.arange(n)
            at += n
    device = batch.ids_T.device
    slot, position = slot.to(device), position.to(device)
    ids = torch.full((len(rows) * width,), pad_id, dtype=torch.long, device=device)
    ids[slot] = batch.ids_T
    return Layout(ids.view(len(rows), width), position.view(len(rows), width), slot)


def _first_fit(length_S: Sequence[int], capacity: int) -> list[list[int]]:
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(length_S)), key=lambda i: (-length_S[i], i)):
        for r, free in enumerate(room):
            if free >= length_S[i]:
                rows[r].append(i)
                room[r] -= length_S[i]
                break
        else:
            rows.append([i])
            room.append(capacity - length_S[i])
    return rows


def collate(rows: Sequence[Row]) -> Parts:
    """Rows -> one batch a part; row i becomes group i in every part."""
    names = sorted({name for row in rows for name in row})
    return {name: _collate([(g, segment) for g, row in enumerate(rows) for segment in row.get(name, ())]) for name in names}


def _collate(segments: Sequence[tuple[int, Segment]]) -> Batch:
    def flat(arrays: list[np.ndarray], dtype: type) -> Tensor:
        # Concatenating copies, so that tensors never share memory with a read-only file mapping.
        return torch.from_numpy(np.concatenate(arrays or [np.zeros(0)]).astype(dtype))

    size = [len(s.ids) for _, s in segments]
    extras: dict[str, Tensor] = {}
    for name in sorted({name for _, s in segments for name in s.extras}):
        missing = [s.source for _, s in segments if name not in s.extras]
        if missing:
            raise ValueError(f"extra {name!r} is missing in {len(missing)} of {len(segments)} segments, the first is {missing[0]!r}")
        extras[name] = flat([np.atleast_1d(s.extras[name]) for _, s in segments], np.float32)
    return Batch(
        ids_T=flat([s.ids for _, s in segments], np.int64),
        segment_T=torch.repeat_interleave(torch.arange(len(segments)), torch.tensor(size, dtype=torch.long)),
        weight_T=flat([s.weight for _, s in segments], np.float32),
        group_S=torch.tensor([g for g, _ in segments], dtype=torch.long),
        extras=extras,
    )


def concatenate(batches: Sequence[Batch]) -> Batch:
    """The segments of several batches end to end, without their extras; groups of the same number are taken to be the same."""
    first_S = np.cumsum([0, *(b.num_segments for b in batches)])
    return Batch(
        torch.cat([b.ids_T for b in batches]),
        torch.cat([b.segment_T + int(start) for b, start in zip(batches, first_S, strict=False)]),
        torch.cat([b.weight_T for b in batches]),
        torch.cat([b.group_S for b in batches]),
    )


def select(batch: Batch, keep_S: Tensor) -> Batch:
    """The segments where `keep_S` [S] is true, in order; extras follow their segments."""
    keep_T = keep_S[batch.segment_T]
    renumber_S = torch.cumsum(keep_S.long(), 0) - 1
    extras = {name: x[keep_T] if x.shape[0] == batch.num_tokens else x[keep_S] for name, x in batch.extras.items()}
    return Batch(batch.ids_T[keep_T], renumber_S[batch.segment_T[keep_T]], batch.weight_T[keep_T], batch.group_S[keep_S], extras)


def split(parts: Parts, micro_tokens: int | None) -> list[Parts]:
    """Cut a step into micro-batches of at most `micro_tokens` tokens (all parts together; one group is never cut, however long).

    Groups of the same number stay together over the parts. Every micro-batch holds every part, some perhaps empty.
    """
    if micro_tokens is None or not parts:
        return [parts]
    groups = sorted({g for batch in parts.values() for g in batch.group_S.tolist()})
    size = dict.fromkeys(groups, 0)
    for batch in parts.values():
        for g, n in zip(batch.group_S.tolist(), lengths(batch).tolist(), strict=True):
            size[g] += n
    total = sum(size.values())
    # Micro-batches of about the same size: each costs a pass over the weights and their gradients, and a small last one costs it for nothing.
    target = total / max(1, -(-total // micro_tokens))
    chunks: list[set[int]] = []
    filled = 0
    # Sorted by size, so that the segments of one micro-batch are of similar length and padded rows fill well.
    for g in sorted(groups, key=lambda g: (-size[g], g)):
        if not chunks or filled >= target or filled + size[g] > micro_tokens:
            chunks.append(set())
            filled = 0
        chunks[-1].add(g)
        filled += size[g]
    if len(chunks) <= 1:
        return [parts]
    return [
        {name: select(batch, torch.tensor([g in chunk for g in batch.group_S.tolist()], dtype=torch.bool)) for name, batch in parts.items()}
        for chunk in chunks
    ]


def to(parts: Parts, device: torch.device | str) -> Parts:
    """The same parts on another device."""
    return {
        name: Batch(
            b.ids_T.to(device), b.segment_T.to(device), b.weight_T.to(device), b.group_S.to(device), {k: v.to(device) for k, v in b.extras.items()}
        )
        for name, b in parts.items()
    }
