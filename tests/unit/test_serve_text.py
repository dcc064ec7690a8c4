"""Text that comes out while tokens come in: joined it is the decoding of all tokens, up to the first stop string."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tempering.serve.text import Names, Text
from tests.conftest import SPECIALS, make_tokenizer

TOKENIZER = make_tokenizer()
TEXTS = st.text(alphabet=st.sampled_from("abt he ins\n€😀é"), max_size=12)


def pieces(ids: list[int], stop: tuple[str, ...] = ()) -> list[str]:
    text = Text(TOKENIZER, stop)
    return [*(text.add(i) for i in ids), text.end()]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=30))
def test_any_tokens_joined_are_their_decoding(ids: list[int]) -> None:
    assert "".join(pieces(ids)) == TOKENIZER.decode(ids, skip_special_tokens=True)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.lists(TEXTS.filter(bool), min_size=1, max_size=3))
def test_text_ends_before_the_first_stop_string(text: str, stops: list[str]) -> None:
    cuts = [at for stop in stops if (at := text.find(stop)) >= 0]
    # Of two that overlap, the one that is complete first ends the text.
    firsts = {text[:at] for at in cuts} or {text}
    assert "".join(pieces(TOKENIZER.encode(text), tuple(stops))) in firsts


def test_what_is_certain_comes_at_once_and_no_sooner() -> None:
    euro = TOKENIZER.encode("€")
    assert len(euro) == 3
    assert pieces([*TOKENIZER.encode("x"), *euro, *TOKENIZER.encode("y")]) == ["x", "", "", "€", "y", ""]
    ids = TOKENIZER.encode("x the is")
    assert [TOKENIZER.decode(i) for i in ids] == ["x", " the", " is"]
    assert pieces(ids, ("the end", "s!")) == ["x", " ", "the i", "s"]
    assert pieces(ids, ("he i",)) == ["x", " t", "", ""]
    assert pieces([TOKENIZER.convert_tokens_to_ids(SPECIALS[1]), *TOKENIZER.encode("ok")]) == ["", "o", "k", ""]


def test_names_of_tokens_keep_their_space() -> None:
    names = Names(TOKENIZER)
    assert [names.name(i) for i in TOKENIZER.encode(" the is")] == [" the", " is"]
    assert names.name(TOKENIZER.eos_token_id) == "<|im_end|>"
