"""Tokens of one tokenizer as another's: which tokens of two readings of a text are the same, and which words of two vocabularies are nearest.

Both by the edit distance of what is written (Wan et al. 2024, FuseLLM, arXiv 2401.10491, section 3.2). Two readings are laid beside each other by the
path of least total distance, on which every token of either meets one or more of the other in order; tokens that meet one another and nothing else
are taken for the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

_PLAIN = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": "\n", "ĉ": "\t"})


def written(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Tokens as they stand in the vocabulary, the marks of blanks and newlines made plain."""
    return [str(token).translate(_PLAIN) for token in tokenizer.convert_ids_to_tokens([int(i) for i in ids])]


class Words:
    """A vocabulary that is asked for its nearest word."""

    def __init__(self, tokenizer: Any) -> None:
        ids = sorted(tokenizer.get_vocab().values())
        self.words = written(tokenizer, ids)
        self.ids = np.asarray(ids)
        self._id = {word: i for word, i in zip(reversed(self.words), reversed(ids), strict=True)}
        self._length = np.asarray([len(word) for word in self.words])
        # [words, longest] code points, -1 behind the end.
        self._codes = np.full((len(ids), int(self._length.max())), -1, dtype=np.int64)
        for row, word in zip(self._codes, self.words, strict=True):
            row[: len(word)] = [ord(c) for c in word]

    def distances(self, word: str, among: np.ndarray | None = None) -> np.ndarray:
        """Edit distance (insert, delete, replace, one each) of `word` to every word of the vocabulary, or to those of the rows `among`."""
        codes, length = (self._codes, self._length) if among is None else (self._codes[among], self._length[among])
        longest = int(length.max(initial=0))
        before = np.broadcast_to(np.arange(longest + 1), (len(length), longest + 1)).copy()
        for i, c in enumerate(map(ord, word), 1):
            now = np.empty_like(before)
            now[:, 0] = i
            replaced = before[:, :-1] + (codes[:, :longest] != c)
            for j in range(1, longest + 1):
                now[:, j] = np.minimum(np.minimum(now[:, j - 1], before[:, j]) + 1, replaced[:, j - 1])
            before = now
        return before[np.arange(len(length)), length]

    def nearest(self, word: str) -> int:
        """The id of the word itself, or else of one at the least edit distance: of the likest length, the first of those."""
        if word not in self._id:
            # No word whose length differs by more than the best distance can be nearer: begin with words of like length.
            gap = np.abs(self._length - len(word))
            best, found = len(word) + int(self._length.max()) + 1, 0
            for wide in range(int(gap.max()) + 1):
                if wide >= best:
                    break
                rows = np.flatnonzero(gap == wide)
                if len(rows) and (distance := self.distances(word, rows)).min() < best:
                    best, found = int(distance.min()), int(self.ids[rows[distance.argmin()]])
            self._id[word] = found
        return self._id[word]


def distance(a: str, b: str) -> int:
    """Edit distance of two words."""
    before = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        now = [i]
        for j, y in enumerate(b, 1):
            now.append(min(now[-1] + 1, before[j] + 1, before[j - 1] + (x != y)))
        before = now
    return before[-1]


def path(a: Sequence[str], b: Sequence[str]) -> tuple[int, list[tuple[int, int]]]:
    """The least total distance of two readings and the pairs (place in `a`, place in `b`) that meet on the way; both must have tokens."""
    known: dict[tuple[str, str], int] = {}
    cost = np.empty((len(a), len(b)), dtype=np.int64)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            if (x, y) not in known:
                known[x, y] = 0 if x == y else distance(x, y)
            cost[i, j] = known[x, y]
    total = np.full((len(a) + 1, len(b) + 1), np.iinfo(np.int64).max // 2)
    total[0, 0] = 0
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            total[i, j] = cost[i - 1, j - 1] + min(total[i - 1, j - 1], total[i - 1, j], total[i, j - 1])
    i, j, pairs = len(a), len(b), []
    while i:
        pairs.append((i - 1, j - 1))
        # Of equal ways the one that leaves both tokens behind.
        i, j = min(((i - 1, j - 1), (i - 1, j), (i, j - 1)), key=lambda at: total[at])
    return int(total[-1, -1]), pairs[::-1]


def same(a: Sequence[str], b: Sequence[str]) -> list[int | None]:
    """For each token of `b` the place of the token of `a` that meets it and nothing else; None where there is none."""
    if not a or not b:
        return [None] * len(b)
    _, pairs = path(a, b)
    met_a, met_b = ([sum(pair[side] == i for pair in pairs) for i in range(n)] for side, n in ((0, len(a)), (1, len(b))))
    found: list[int | None] = [None] * len(b)
    for i, j in pairs:
        if met_a[i] == met_b[j] == 1:
            found[j] = i
    return found
