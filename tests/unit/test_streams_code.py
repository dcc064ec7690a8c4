"""What the catalogue asks of the methods that write code and citations into the data (`check_exact`), beyond their worked cases."""

from __future__ import annotations

from collections import Counter

import pytest

from tempering.cases import plain, talk
from tempering.errors import UserError
from tempering.making import Making, spoken
from tempering.methods.streams import _classes, codegen2
from tempering.methods.streams._classes import Kind
from tempering.methods.streams.codegen2 import CodeGen2
from tempering.methods.streams.knowcoder import KnowCoder
from tempering.methods.streams.source_aware import SourceAware
from tempering.methods.streams.theoremllama import TheoremLlama

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


THING = Kind("Thing", doc='It\'s "a" \\ thing.\n  Really: """x"""', fields=(("name", "str"),))
ORG = Kind("Org", "Thing", "", (("staff", "int"), ("share", "float"), ("open", "bool")))
PERSON = Kind("Person", "Thing", "Who.", (("works_for", "Org"), ("knows", "Person")))
EMPTY = Kind("Empty", "Thing")
SCHEMA = _classes.checked([PERSON, THING, ORG, EMPTY])
FIRM = {"type": "Org", "name": 'O\'Neil "&" Co\n', "staff": -3, "share": 0.5, "open": True}
ANN = {"type": "Person", "name": "Ann", "works_for": FIRM, "knows": {"type": "Person", "name": "Bo"}}


def test_s196_schemas_and_objects_survive_the_code() -> None:
    assert _classes.read(_classes.write(SCHEMA.values())) == list(SCHEMA.values())
    assert _classes.extract(_classes.results([ANN, FIRM, {"type": "Empty"}]), SCHEMA) == [ANN, FIRM, {"type": "Empty"}]
    assert [kind.name for kind in _classes.closure(["Person"], SCHEMA)] == ["Person", "Thing", "Org"]


REFUSED = ("Org(name=3)", "Org(staff=True)", "Org(share=1)", "Org(share=1e999)", "Person(works_for=Thing())", "Org(nick='x')", "Dog()", "3")
REFUSED += (
    "Org('x')",
    "Org(**{})",
    "Org(type='Thing')",
    "Org(name='a' + 'b')",
    "__import__('os').getcwd()",
    "Person(works_for='Org')",
    "Org(staff=-'x')",
)


@pytest.mark.parametrize("code", REFUSED)
def test_s196_what_breaks_the_schema_or_is_more_than_objects_is_refused(code: str) -> None:
    with pytest.raises(UserError):
        _classes.extract(f"results = [{code}]", SCHEMA)


def test_s196_other_code_is_refused() -> None:
    for code in (
        "import os",
        "class A(B, C): pass",
        "class A:\n    x: int = 3",
        "class A:\n    def f(self): pass",
        "@f\nclass A: pass",
        "class A(",
        "\0",
    ):
        with pytest.raises(UserError):
            _classes.read(code)
    for code in ("", "results = 3", "results = []; x = 1", "x = []", "(" * 500):
        with pytest.raises(UserError):
            _classes.extract(code, SCHEMA)
    for kinds in (
        [Kind("A", "A")],
        [Kind("A", "B")],
        [Kind("A", "B"), Kind("B", "A")],
        [Kind("class")],
        [Kind("A", fields=(("x", "list"),))],
        [EMPTY] * 2,
    ):
        with pytest.raises(UserError, match="schema: "):
            _classes.checked(kinds)


def test_s196_negatives_ask_for_what_is_not_there_and_answers_are_the_gold_objects() -> None:
    given = [{"name": k.name, "base": k.base, "doc": k.doc, "fields": dict(k.fields)} for k in SCHEMA.values()]
    records = [plain(f"text {i}", id=str(i), schema=given, objects=[ANN] if i % 2 else [{"type": "Org", "name": "x"}]) for i in range(10)]
    found = [r for r in KnowCoder(negatives=4)(records, Making()) if r.tags["phase"]]
    answers = {r.id: _classes.extract(spoken(r.responses[0].messages), SCHEMA) for r in found}
    assert all(answers[r.id] == r.tags["objects"] for r in records)
    assert {i.split("/")[1] for i in answers if i.startswith("1/")} == {"no-Empty"}
    assert {i.split("/")[1] for i in answers if i.startswith("2/")} == {"no-Empty", "no-Person"}
    assert all(not answers[i] for i in answers if "/" in i)


def test_s196_bad_records_are_named() -> None:
    for tags, said in (
        ({"schema": 3, "objects": []}, "must be a list"),
        ({"schema": [], "objects": [{"type": "A"}]}, "no object of a class"),
        ({"schema": []}, "no field 'objects'"),
        ({"schema": [{"name": 3}], "objects": []}, "must be a list"),
    ):
        with pytest.raises(UserError, match=f"r1: .*{said}"):
            list(KnowCoder()([plain("a", id="r1", **tags)], Making()))


def test_s229_steps_can_be_taken_out_again() -> None:
    draw = Making(2).random("steps")
    for text in texts(100):
        steps = [draw.choice(("", "by\r\nlaw", "--", " x ")) for _ in text.split("\n")]
        code = TheoremLlama.comment(text, steps)
        assert TheoremLlama.strip(code) == text and code.count("--: ") == sum(bool(step.strip()) for step in steps)


@pytest.mark.parametrize(("block", "stages"), [(1, 1), (1, 4), (3, 1), (50, 7)])
def test_s229_blocks_hold_what_came_before_and_block_1_is_plain(block: int, stages: int) -> None:
    draw = Making(5).random("lengths")
    records = [talk(f"q{i}", "x" * draw.randint(1, 9), id=str(i)) for i in range(20)]
    found = list(TheoremLlama(block=block, stages=stages)(records, Making()))
    easy = sorted(records, key=lambda record: len(spoken(record.responses[0].messages)))
    assert [r.id for r in found] == [r.id for r in easy]
    for i, record in enumerate(found):
        turns = (*record.prompt, *record.responses[0].messages)
        assert turns == tuple(m for one in easy[max(0, i - block + 1) : i + 1] for m in (*one.prompt, *one.responses[0].messages))
        assert len(record.prompt) == 1
    if block == 1:
        assert [(r.prompt, r.responses) for r in found] == [(r.prompt, r.responses) for r in easy]
    phases = [r.tags["phase"] for r in found]
    assert phases == sorted(phases) and set(phases) == set(range(stages)) and max(Counter(phases).values()) - min(Counter(phases).values()) <= 1


def test_s229_what_it_cannot_use_is_named() -> None:
    with pytest.raises(UserError, match="needs questions with answers"):
        list(TheoremLlama()([plain("a")], Making()))
    for bad in ("much", "nan"):
        with pytest.raises(UserError, match=f"'loss' must be a number, not '{bad}'"):
            list(TheoremLlama(difficulty="loss")([talk("a", "b", loss=bad)], Making()))
