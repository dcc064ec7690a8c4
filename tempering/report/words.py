"""Untrusted text, shown as it is: what a model wrote, word by word, with nothing in it that a reader cannot see.

Escaping keeps markup from acting, but a page can still lie: a right-to-left override turns a sentence round, a zero-width space splits a word that
looks whole, an escape sequence hides in a pasted terminal line. Characters without a picture are therefore written out. The result is plain text, so
that it is as safe in an attribute as between two tags.
"""

from __future__ import annotations

import re
import unicodedata
from difflib import SequenceMatcher

from markupsafe import Markup, escape

HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
"""Unicode categories without a picture: controls, formats (bidi, zero width, tags), surrogates, private use, line and paragraph separators."""
MAX_CHARS = 4000
"""Longest text shown of one output; the page says how much it leaves out."""
MAX_TOKENS = 1500
"""Longest text, in words and marks, that is compared word by word: the comparison grows with the square of it."""

_TOKEN = re.compile(r"\s+|\w+|[^\w\s]")
_SUSPECT = re.compile(r"[^\x20-\x7e\n\t]")
_JOINERS = "\u200c\u200d"


def visible(text: str) -> str:
    """The text with every character that has no picture written out, like "⟨U+202E⟩". Line feeds and tabs stay.

    Joiners between letters or pictures of scripts that need them (Persian, Indic scripts, emoji) stay as they are.
    """
    return _SUSPECT.sub(_shown, text)


def _shown(match: re.Match[str]) -> str:
    char, text, i = match[0], match.string, match.start()
    if unicodedata.category(char) not in HIDDEN:
        return char
    if char in _JOINERS and 0 < i < len(text) - 1 and _joinable(text[i - 1]) and _joinable(text[i + 1]):
        return char
    return f"\u27e8U+{ord(char):04X}\u27e9"


def _joinable(char: str) -> bool:
    return not char.isascii() and unicodedata.category(char) in {"Lo", "Mn", "Mc", "So", "Sk"}


def shorten(text: str, limit: int = MAX_CHARS) -> str:
    """The first `limit` characters, and how many are left out."""
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit:,} more characters)"


def word_diff(before: str, after: str) -> tuple[Markup, Markup]:
    """Both texts as markup: words only in the first in <del>, words only in the second in <ins>. Texts that share nothing are left unmarked."""
    left, right = visible(shorten(before)), visible(shorten(after))
    a, b = _TOKEN.findall(left), _TOKEN.findall(right)
    if left == right or len(a) > MAX_TOKENS or len(b) > MAX_TOKENS:
        return escape(left), escape(right)
    matcher = SequenceMatcher(None, a, b, autojunk=False)
    shared = sum(len("".join(a[block.a : block.a + block.size]).strip()) for block in matcher.get_matching_blocks())
    if shared * 5 < max(len(left), len(right)):
        # Marking nearly everything marks nothing; two colours over two whole paragraphs only make them harder to read.
        return escape(left), escape(right)
    sides: tuple[list[str], list[str]] = ([], [])
    for same, a0, a1, b0, b1 in _runs(matcher, a):
        for side, words, tag in ((sides[0], a[a0:a1], "del"), (sides[1], b[b0:b1], "ins")):
            text = escape("".join(words))
            side.append(text if same or not words else Markup("<{0}>{1}</{0}>").format(tag, text))
    return Markup("").join(sides[0]), Markup("").join(sides[1])


def _runs(matcher: SequenceMatcher[str], a: list[str]) -> list[tuple[bool, int, int, int, int]]:
    """Opcodes as (same, a0, a1, b0, b1), where a space between two changes belongs to the change: one mark reads better than three."""
    runs: list[tuple[bool, int, int, int, int]] = []
    for action, a0, a1, b0, b1 in matcher.get_opcodes():
        same = action == "equal" and (not runs or a1 == len(a) or not "".join(a[a0:a1]).isspace())
        if runs and not same and not runs[-1][0]:
            _, a0, _, b0, _ = runs.pop()
        runs.append((same, a0, a1, b0, b1))
    return runs
