"""Untrusted text: made visible, compared word by word, and never markup."""

from __future__ import annotations

import pytest
from markupsafe import Markup

from tempering.report.words import MAX_CHARS, shorten, visible, word_diff

VISIBLE = [
    ("plain text, 12 + 3!", "plain text, 12 + 3!"),
    ("line\nfeed\tand tab", "line\nfeed\tand tab"),
    ("\x1b[31mred\x07", "⟨U+001B⟩[31mred⟨U+0007⟩"),
    ("cr\r\nlf", "cr⟨U+000D⟩\nlf"),
    ("a\u202eb\u2066c", "a⟨U+202E⟩b⟨U+2066⟩c"),
    ("zero\u200bwidth\ufeff", "zero⟨U+200B⟩width⟨U+FEFF⟩"),
    ("hidden \U000e0041 tag", "hidden ⟨U+E0041⟩ tag"),
    ("lone \ud800 surrogate", "lone ⟨U+D800⟩ surrogate"),
    ("para\u2029graph", "para⟨U+2029⟩graph"),
    ("a\u200db", "a⟨U+200D⟩b"),
    ("\u200d", "⟨U+200D⟩"),
    ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
    ("\U0001f469\u200d\U0001f467", "\U0001f469\u200d\U0001f467"),
    ("naïve 漢字 \u0645\u0631\u062d\u0628\u0627", "naïve 漢字 \u0645\u0631\u062d\u0628\u0627"),
]


@pytest.mark.parametrize(("text", "shown"), VISIBLE)
def test_what_has_no_picture_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


DIFFS = [
    ("same words", "same words", "same words", "same words"),
    ("The answer is 44.", "The answer is 39.", "The answer is <del>44</del>.", "The answer is <ins>39</ins>."),
    ("one two three four", "one 2 3 four", "one <del>two three</del> four", "one <ins>2 3</ins> four"),
    ("keep this", "keep this and more", "keep this", "keep this<ins> and more</ins>"),
    ("a <b>bold claim", "a <i>bold claim", "a &lt;<del>b</del>&gt;bold claim", "a &lt;<ins>i</ins>&gt;bold claim"),
    ("abc def", "uvw xyz", "abc def", "uvw xyz"),
    ("", "new", "", "new"),
    ("x\u202ey z", "x\u202ey w", "x⟨U+202E⟩y <del>z</del>", "x⟨U+202E⟩y <ins>w</ins>"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after", "left", "right"), DIFFS)
def test_word_diff(before: str, after: str, left: str, right: str) -> None:
    found = word_diff(before, after)
    assert found == (Markup(left), Markup(right))


def test_long_texts_are_cut_and_say_so() -> None:
    assert shorten("x" * 10, 10) == "x" * 10
    assert shorten("x" * 1015, 10) == "xxxxxxxxxx … (1,005 more characters)"
    left, _ = word_diff("y" * (MAX_CHARS + 7), "z")
    assert left.endswith("… (7 more characters)")


def test_many_words_are_not_compared_one_by_one() -> None:
    left, right = word_diff("a b " * 900, "a c " * 900)
    assert "<del>" not in left and "<ins>" not in right
