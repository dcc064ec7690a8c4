"""One example as people see it: the decoded tokens, those that are trained coloured."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from rich.text import Text

from tempering.data.findings import escaped
from tempering.types import Segment

TRAINED, CONTEXT = "bold green", "dim"


def render_example(segment: Segment, tokenizer: Any, *, max_tokens: int = 400) -> Text:
    """The segment's text, special tokens included, trained tokens in green and context dim.

    Control characters from the data are escaped. Of a long segment the end of its first `max_tokens` tokens is cut, and said.
    """
    ids, on = np.asarray(segment.ids)[:max_tokens], np.asarray(segment.weight)[:max_tokens] != 0
    text = Text()
    for piece, trained in zip(pieces(ids, on, tokenizer), on[_starts(on)], strict=True):
        text.append(escaped(piece), TRAINED if trained else CONTEXT)
    if len(segment.ids) > max_tokens:
        text.append(f" ... ({len(segment.ids) - max_tokens} more tokens)", "italic")
    return text


def pieces(ids: np.ndarray, on: np.ndarray, tokenizer: Any) -> list[str]:
    """The text of each run of equally trained tokens."""

    def decode(part: np.ndarray) -> str:
        return tokenizer.decode(part.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    cuts = [*_starts(on).tolist(), len(ids)]
    out = []
    for a, b in pairwise(cuts):
        # a run decoded alone loses its leading space in SentencePiece-like tokenizers, so take the difference of prefixes where there is one
        before, after = decode(ids[:a]), decode(ids[:b])
        out.append(after[len(before) :] if after.startswith(before) else decode(ids[a:b]))
    return out


def _starts(on: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.diff(on, prepend=~on[:1])) if len(on) else np.zeros(0, int)
