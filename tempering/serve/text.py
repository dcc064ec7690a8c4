"""Tokens in, text out, as soon as it is certain.

A token may hold half a character, and may begin a stop string that the next ones complete or not: such text is held back. What comes out, joined, is
the text of all tokens up to the first stop string.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

_BROKEN = "\ufffd"
"""What decoding makes of half a character."""


class Text:
    """The text of one row, piece by piece."""

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._ids: list[int] = []
        # Tokens before `_start` can no longer change how the next is written; of the text of those from it on, `_out` characters are out.
        self._start = self._clean = self._out = 0
        self._held = ""
        self._cut = False

    def add(self, token: int) -> str:
        """One more token; what is certain now."""
        self._ids.append(token)
        whole = self._decode(self._ids[self._start :])
        broken = len(whole) - len(whole.rstrip(_BROKEN))
        # The bytes of at most one character are incomplete, and three of its four may be there already.
        new = self._advance(whole[: len(whole) - min(broken, 3)])
        if not broken:
            self._start, self._clean = self._clean, len(self._ids)
            self._out = len(self._decode(self._ids[self._start :]))
        return self._release(new, last=False)

    def end(self) -> str:
        """No more tokens; the rest."""
        return self._release(self._advance(self._decode(self._ids[self._start :])), last=True)

    def _advance(self, certain: str) -> str:
        new, self._out = certain[self._out :], max(self._out, len(certain))
        return new

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def _release(self, new: str, *, last: bool) -> str:
        if self._cut:
            return ""
        self._held += new
        cuts = [at for s in self._stop if (at := self._held.find(s)) >= 0]
        self._cut = bool(cuts)
        keep = 0 if cuts or last else max((_overlap(self._held, s) for s in self._stop), default=0)
        out = self._held[: min(cuts)] if cuts else self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return out


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that may be the beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


class Names:
    """How single tokens are written in log-probs."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        anchor = tokenizer("a", add_special_tokens=False)["input_ids"]
        self._before = tokenizer.decode(anchor)
        self._anchor = anchor
        self.name = lru_cache(maxsize=65536)(self._name)

    def _name(self, token: int) -> str:
        # Behind another token, because some tokenizers drop the space at the very beginning.
        return self._tokenizer.decode([*self._anchor, token])[len(self._before) :]
