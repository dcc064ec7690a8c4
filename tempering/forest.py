"""Segments as a forest: what several of them begin with stands once, and each is a path from a root to a node.

Chosen and rejected answers to one prompt, samples of a group, rows under the same system prompt: their common tokens go through a model once. The
forest is found from the token ids alone, so nobody has to say where a prompt ends, and a micro-batch of unrelated texts is simply a row of roots.

Shapes: T tokens of the flat batch, N tokens of the row (fewer where something is shared), S segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

MIN_SHARED = 16
"""A common run of fewer tokens is not worth a node of its own: one more attention call a layer costs about as much."""


@dataclass(frozen=True)
class Node:
    """Tokens start..end of the row, which attend to themselves and to the ranges `before` (their ancestors, in order)."""

    start: int
    end: int
    before: tuple[tuple[int, int], ...] = ()

    @property
    def offset(self) -> int:
        """Tokens of all ancestors: the position of the node's first token."""
        return sum(end - start for start, end in self.before)

    def keys(self, x_HTD: Tensor) -> Tensor:
        """What the node attends to, [1, heads, P + S, D]."""
        own = x_HTD[:, :, self.start : self.end]
        return torch.cat([*(x_HTD[:, :, a:b] for a, b in self.before), own], 2) if self.before else own


@dataclass(frozen=True)
class Plan:
    """Which tokens of a row attend to which; shared by all layers of a forward pass."""

    nodes: tuple[Node, ...]
    _masks: dict[tuple[int, int, int], Tensor] = field(default_factory=dict, compare=False, repr=False)

    def mask(self, node: Node, window: int | None, device: torch.device) -> Tensor | None:
        """Additive mask [S, P + S] float32; None where plain causal attention is the same thing."""
        size, offset = node.end - node.start, node.offset
        if window is not None and offset + size <= window:
            window = None
        if offset == 0 and window is None:
            return None
        key = (size, offset, window or 0)
        if key not in self._masks:
            at_S, key_L = torch.arange(offset, offset + size, device=device)[:, None], torch.arange(offset + size, device=device)
            seen = key_L <= at_S
            if window is not None:
                seen &= key_L > at_S - window
            self._masks[key] = torch.zeros(seen.shape, device=device).masked_fill_(~seen, -torch.inf)
        return self._masks[key]


@dataclass(frozen=True)
class Forest:
    """A row of tokens, its nodes, and where each token of each segment stands in it."""

    ids_N: np.ndarray
    position_N: np.ndarray
    slot_T: np.ndarray
    nodes: tuple[Node, ...]


def plant(segments: Sequence[np.ndarray], *, share: bool = True) -> Forest:
    """Lay segments out in one row.

    Args:
        segments: token ids of each segment, integers [tokens].
        share: let common prefixes of at least `MIN_SHARED` tokens stand once; otherwise every segment is a root.
    """
    order = sorted(range(len(segments)), key=lambda s: segments[s].tolist()) if share else list(range(len(segments)))
    # Sorted, the tokens that a run of segments shares are what its neighbours share.
    shared = [_common(segments[a], segments[b]) if share else 0 for a, b in pairwise(order)]
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    nodes: list[Node] = []
    slots: list[list[np.ndarray]] = [[] for _ in segments]
    size = 0

    def add(tokens: np.ndarray, offset: int, before: tuple[tuple[int, int], ...], members: Sequence[int]) -> tuple[tuple[int, int], ...]:
        nonlocal size
        if not len(tokens):
            return before
        start, size = size, size + len(tokens)
        ids.append(tokens)
        positions.append(np.arange(offset, offset + len(tokens)))
        nodes.append(Node(start, size, before))
        for s in members:
            slots[s].append(np.arange(start, size))
        return (*before, (start, size))

    # (first and last place in the order, tokens already placed, their ranges)
    todo: list[tuple[int, int, int, tuple[tuple[int, int], ...]]] = [(0, len(order), 0, ())] if order else []
    while todo:
        low, high, depth, before = todo.pop()
        members = order[low:high]
        if len(members) == 1:
            add(segments[members[0]][depth:], depth, before, members)
            continue
        common = min(shared[low : high - 1])
        if common - depth >= MIN_SHARED:
            before, depth = add(segments[members[0]][depth:common], depth, before, members), common
        cuts = [low, *(i + 1 for i in range(low, high - 1) if shared[i] - depth < MIN_SHARED), high]
        todo += [(a, b, depth, before) for a, b in pairwise(cuts)][::-1]

    def flat(pieces: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.int64), *pieces])

    return Forest(flat(ids), flat(positions), flat([piece for pieces in slots for piece in pieces]), tuple(nodes))


def _common(a: np.ndarray, b: np.ndarray) -> int:
    size = min(len(a), len(b))
    differs = np.flatnonzero(a[:size] != b[:size])
    return int(differs[0]) if len(differs) else size
