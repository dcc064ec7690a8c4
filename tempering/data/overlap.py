"""Do training texts contain test items? Exact repeats of prompts, and runs of words in common.

A test item leaks if the same normalised prompt is trained on, or if a run of n words of it (13 by default, as in the decontamination of GPT-3, Brown
et al. 2020, appendix C) stands anywhere in a training record. Items shorter than n words are looked for as a whole, down to 5 words; still shorter
ones only as exact prompts. Runs that stand in more than 10 test items are boilerplate and prove nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

SHORTEST = 5
BOILERPLATE = 10
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
# scripts without spaces: every character counts as a word
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")


def words_of(text: str) -> tuple[str, ...]:
    """Lower-case words, without punctuation, after Unicode compatibility normalisation."""
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).lower()))


class Overlap:
    """An index of test items; the training side is streamed past it."""

    def __init__(self, n: int = 13) -> None:
        self.n = n
        self.items: list[str] = []
        self._exact: dict[int, int] = {}
        self._runs: dict[int, dict[int, list[int]]] = {}

    def add(self, name: str, prompt: str) -> None:
        """Add a test item by its prompt; `name` is what reports call it."""
        words = words_of(prompt)
        if not words:
            return
        index = len(self.items)
        self.items.append(name)
        self._exact.setdefault(hash(words), index)
        size = min(self.n, len(words))
        if size >= SHORTEST:
            found = self._runs.setdefault(size, {})
            for run in set(_hashes(words, size)):
                owners = found.setdefault(run, [])
                if len(owners) <= BOILERPLATE:
                    owners.append(index)

    def exact(self, prompt: str) -> str | None:
        """The test item whose prompt this is, if any."""
        index = self._exact.get(hash(words_of(prompt))) if self.items else None
        return None if index is None else self.items[index]

    def near(self, text: str) -> str | None:
        """A test item of which a run of words stands in this text, if any."""
        if not self._runs:
            return None
        words = words_of(text)
        for size, found in self._runs.items():
            for run in _hashes(words, size):
                owners = found.get(run)
                if owners is not None and len(owners) <= BOILERPLATE:
                    return self.items[owners[0]]
        return None


def _hashes(words: Sequence[str], size: int) -> Iterator[int]:
    return (hash(tuple(words[i : i + size])) for i in range(len(words) - size + 1))
