"""What the catalogue asks of the methods that write code and citations into the data (`check_exact`), beyond their worked cases."""

from __future__ import annotations

from collections import Counter

import pytest

from tempering.cases import plain, talk
from tempering.errors import UserError
from tempering.making import Making, spoken
from tempering.methods.streams import codegen2
from tempering.methods.streams.codegen2 import CodeGen2

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
