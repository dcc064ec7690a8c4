"""What the catalogue asks of the methods that write code and citations into the data (`check_exact`), beyond their worked cases."""

from __future__ import annotations

from collections import Counter

import pytest

from tempering.cases import plain, talk
from tempering.errors import UserError
from tempering.making import Making, spoken
from tempering.methods.streams import codegen2
from tempering.methods.streams.codegen2 import CodeGen2
from tempering.methods.streams.source_aware import SourceAware

WORDS = ("def", "f1", "(", "):", "\n    return", " x", "+", "  ", "\u00e9t\u00e9", "<eom", "<mask_", "3>", "\n")


def texts(n: int) -> list[str]:
    """Random texts of 1 to 60 pieces."""
    draw = Making(3).random("texts")
    return ["".join(draw.choice(WORDS) + draw.choice(("", " ")) for _ in range(draw.randint(1, 60))) for _ in range(n)]


@pytest.mark.parametrize(("ratio", "span"), [(0.15, 3.0), (0.01, 1.0), (0.5, 1.0), (0.99, 2.0), (0.5, 50.0)])
def test_s041_masking_can_be_undone_and_loses_no_piece(ratio: float, span: float) -> None:
    method, masked = CodeGen2(causal=0, ratio=ratio, span=span), 0
    records = [plain(text, id=str(i)) for i, text in enumerate(texts(200))]
    making = Making(4)
    for record in method(records, making):
        text, before = spoken(record.responses[0].messages), spoken(records[int(record.id.split("/")[0])].responses[0].messages)
        assert method.demask(text) == before
        if record.tags["infill"]:
            masked += 1
            body, tail = text.split("<sep>")
            hidden = [span for _, span in codegen2._SPAN.findall(tail)]
            n = len(codegen2._PIECE.findall(before))
            assert sum(len(codegen2._PIECE.findall(span)) for span in hidden) == min(max(1, round(n * ratio)), n - 1)
            assert Counter("".join([*codegen2._MASK.split(body)[::2], *hidden])) == Counter(before)
    assert masked > 150


def test_s041_half_the_texts_are_causal_and_all_with_p_1() -> None:
    records = [plain(f"a b {i}", id=str(i)) for i in range(400)]
    assert [r.responses for r in CodeGen2(causal=1)(records, Making())] == [r.responses for r in records]
    assert 170 <= sum(not r.tags["infill"] for r in CodeGen2()(records, Making())) <= 230


def test_s041_what_a_model_filled_in_badly_is_refused() -> None:
    assert CodeGen2.demask("def <mask_1>():<sep><mask_1>f<eom>") == "def f():" and CodeGen2.demask("def f():") == "def f():"
    for bad in ("<mask_1><sep>", "<mask_1><sep><mask_1>f", "<mask_1><sep><mask_2>f<eom>", "x<sep>y", "<mask_1><sep><mask_1>f<eom><mask_1>g<eom>"):
        with pytest.raises(UserError, match="needs one span"):
            CodeGen2.demask(bad)
    with pytest.raises(UserError, match="needs plain texts"):
        list(CodeGen2()([talk("a", "b")], Making()))


@pytest.mark.parametrize("place", ["begin", "end", "repeat"])
def test_s140_every_document_and_answer_cites_its_own_and_copies_are_orders_of_its_sentences(place: str) -> None:
    records = [plain(f"A{i} is here. B{i} is there! C{i}?", id=f"t{i}", document=f"d{i}") for i in range(20)]
    records += [talk(f"Where is A{i}?", "Here.", id=f"q{i}", document=f"d{i}") for i in range(20)]
    found = list(SourceAware(place=place, copies=3)(records, Making(1)))  # pyright: ignore[reportArgumentType]
    assert [r.tags["phase"] for r in found] == [0] * 80 + [1] * 20
    for record in found:
        text = spoken(record.responses[0].messages)
        assert SourceAware.cited(text) == f"d{record.id.split('/')[0][1:]}"
        assert text.count("[[") == (3 if place == "repeat" and record.tags["phase"] == 0 else 1)
        if record.tags["phase"] == 0:
            i = record.id.split("/")[0][1:]
            plainly = text.replace(f" [[d{i}]]", "").replace(f"[[d{i}]] ", "")
            assert Counter(plainly.split()) == Counter(f"A{i} is here. B{i} is there! C{i}?".split())
    assert len({spoken(r.responses[0].messages) for r in found if r.id.startswith("t0/")}) > 1
    assert SourceAware.cited("I do not know.") is None


def test_s140_what_cannot_be_cited_is_refused() -> None:
    with pytest.raises(UserError, match="has no field 'document'"):
        list(SourceAware()([plain("a")], Making()))
    with pytest.raises(UserError, match="must have characters, but not"):
        list(SourceAware()([plain("a", document="]]")], Making()))
    for bad in (3, ["what?"], [{"question": "what?"}]):
        with pytest.raises(UserError, match='"questions" must be a list of'):
            list(SourceAware()([plain("a", document="d", questions=bad)], Making()))
