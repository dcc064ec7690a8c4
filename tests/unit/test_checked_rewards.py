"""Rewards that a program checks: what is right, and what a policy would try instead: nothing, everything, the question, two boxes, odd digits."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tempering.cli.app import run_command
from tempering.methods.rewards._maths import same
from tempering.methods.rewards.calibrated import Calibrated
from tempering.methods.rewards.constraints import _RULES, Constraints
from tempering.methods.rewards.exact_answer import ExactAnswer
from tempering.methods.rewards.format import Format
from tempering.methods.rewards.overlong import Overlong
from tempering.methods.rewards.weighted import Weighted
from tempering.rollouts.types import overlong
from tempering.types import Message, Record, Response
from tests.conftest import shared

# --------------------------------------------------------------------------------------------------------------------------------------- mathematics

SAME = [
    ("1/2", "0.5"), (r"\frac{1}{2}", "50/100"), (r"\dfrac12", "0.5"), ("1,200", "1200"), ("$1,200.00", "1200"), (r"2\sqrt{3}", r"\sqrt{12}"),
    ("(x+1)^2", "x^2+2x+1"), ("(1, 2)", "(1,2)"), ("{1,2}", "{2,1}"), ("1, 2", "2,1"), ("18 dollars", "18"), ("18", "18 dollars"), ("x=3", "3"),
    ("1 1/2", "3/2"), (r"1\frac{1}{2}", "1.5"), (r"\text{Paris}", "paris"), ("(A)", "A"), ("yes.", "Yes"), (r"90^\circ", "90"), ("2^{10}", "1024"),
    ("5!", "120"), (r"\sqrt[3]{8}", "2"), ("-3", "\u22123"), ("3*x*y", "3xy"), (r"\pi r^2", r"r^2\pi"), ("[0, 1)", "[0,1)"), ("5 cm^2", "5"),
    ("|-3|", "3"), (r"\left(\frac{1}{3}, 2\right)", "(2/6,2)"), ("xy^2", "x*y^2"), ("50%", "50"), (r"\frac{x^2-1}{x-1}", "x+1"),
    ("sin(x)", r"\sin x"),
]  # fmt: skip
DIFFERENT = [
    ("0.33", "1/3"), ("1.41421356237", r"\sqrt{2}"), ("50%", "0.5"), ("5 cm", "5 km"), ("1 or 2", "1"), ("1 and 2", "1"), ("1,2,3", "3"),
    ("3xy", "3"),
    ("nan", "1"), ("nan", "nan1"), ("inf", "1"), ("1/0", "1"), ("1e999", "1"), ("\uff11\uff18", "18"), ("\u0661\u0668", "18"), ("9^9^9^9", "9"),
    ("no", "on"), ("", "1"), (" . ", "."), ("()", "1"), ("(1,2)", "(2,1)"), ("[0,1)", "(0,1)"), ("{1,1}", "{1}"), ("x", "y"), ("x^2", "x^3"),
    ("18 19", "18"), ("-5", "5"), ("x=3", "x=4"), ("(" * 150 + "1" + ")" * 150, "2"), ("10**400**400", "1"), ("200!!!!", "1"), ("2^-9999", "0"),
    ("__import__('os')", "0"), ("xy", "x+y"),
]  # fmt: skip


@pytest.mark.parametrize(("found", "expected"), SAME, ids=str)
def test_the_same_mathematics(found: str, expected: str) -> None:
    assert same(found, expected) and same(expected, found)


@pytest.mark.parametrize(("found", "expected"), DIFFERENT, ids=str)
def test_different_mathematics(found: str, expected: str) -> None:
    assert not same(found, expected) and not same(expected, found)


def test_a_tolerance_lets_a_rounded_number_pass() -> None:
    assert same("0.333", "1/3", tolerance=0.01) and not same("0.3", "1/3", tolerance=0.01)


def test_hostile_expressions_take_no_time() -> None:
    begun = time.process_time()
    texts = ("9" * 290, "9^" * 140 + "9", "(((" * 90, "(1+1)" * 55, "1," * 140, "{" + "1,2," * 60 + "}", "x" * 290, "\\frac" * 50, "!" * 290)
    for text in (*texts, "2^(2^(2^(2^9)))"):
        assert not same(text, "12345")
    assert time.process_time() - begun < 1


# -------------------------------------------------------------------------------------------------------------------------------------- exact answer


def gold(answer: Any) -> Record:
    return Record((), (), tags={"gold": answer})


def exact(answer: str, right: Any = "18", prompt: str = "how many?", **fields: Any) -> float:
    return float(ExactAnswer(**fields)([prompt], [answer], [gold(right)])[0])


def test_an_answer_is_taken_out_and_compared() -> None:
    assert exact("so 9 + 9 = 18") == 1 and exact("so 18 - 9 = 9") == 0
    assert exact("first 3\n#### 18", rule="hashes") == 1 and exact("18", rule="hashes") == 0
    assert exact(r"hence \boxed{\frac{36}{2}}", rule="boxed") == 1
    assert exact("Paris.", "paris", rule="text") == 1
    assert exact("<think>17</think> <answer> 18 dollars </answer>", rule="tag") == 1
    assert exact("18.0", 18) == 1 and exact("17", ["16", "17"]) == 1
    solution = Record((), (Response((Message("assistant", "9 + 9 = 18\n#### 18"),)),))
    assert ExactAnswer()(["?"], ["18"], [solution]).tolist() == [1]
    assert np.isnan(ExactAnswer()(["?"], ["18"], [Record((), ())])).all()


BOX = {"rule": "boxed"}
HACKS = {
    "nothing": ("", {}),
    "blanks": (" \n ", BOX),
    "every number": (" ".join(map(str, range(100))), {}),
    "every number boxed": ("".join(rf"\boxed{{{i}}}" for i in range(100)), BOX),
    "every number in one box": (r"\boxed{" + ", ".join(map(str, range(100))) + "}", BOX),
    "two boxes, the right one last": (r"\boxed{17} or \boxed{18}", BOX),
    "two boxes, the right one first": (r"\boxed{18} or \boxed{17}", BOX),
    "either in one box": (r"\boxed{17 or 18}", BOX),
    "an empty box": (r"18 \boxed{}", BOX),
    "an open box": (r"\boxed{18", BOX),
    "a box in words": ("boxed{18}", BOX),
    "fullwidth digits": ("\uff11\uff18", {}),
    "fullwidth digits in a box": ("\\boxed{\uff11\uff18}", BOX),
    "arabic digits": ("\u0661\u0668", {}),
    "not a number": ("nan", {"rule": "text"}),
    "infinity": ("inf", {"rule": "text", "tolerance": 0.5}),
    "infinite digits": ("9" * 50_000, {}),
    "a very long text": ("18 " + "x1 " * 100_000, {}),
    "two tags": ("<answer>17</answer><answer>18</answer>", {"rule": "tag"}),
    "a tag within a tag": ("<answer><answer>18</answer></answer>", {"rule": "tag"}),
    "an open tag": ("<answer>18", {"rule": "tag"}),
    "the rule's own words": (r"Put the answer in \boxed{}.", BOX),
}


@pytest.mark.parametrize("name", HACKS)
def test_what_is_tried_instead_of_an_answer_earns_nothing(name: str) -> None:
    answer, fields = HACKS[name]
    assert exact(answer, **fields) == 0


def test_the_same_box_twice_is_one_answer() -> None:
    assert exact(r"\boxed{18}, that is \boxed{18.0}", **BOX) == 1


def test_an_echo_of_the_prompt_earns_nothing() -> None:
    prompt = "There are 18 ducks. How many ducks are there?"
    assert exact(prompt, prompt=prompt) == 0 and exact(f" {prompt} 18", prompt=prompt) == 1
    assert ExactAnswer()([(Message("user", prompt),)], [prompt], [gold("18")]).tolist() == [0]


def test_solutions_of_real_questions_are_right_and_others_are_not() -> None:
    rows = [json.loads(line) for line in shared("data/gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines()]
    questions, solutions = [row["question"] for row in rows], [row["answer"] for row in rows]
    records = [Record((Message("user", row["question"]),), (), tags={"answer": row["answer"]}) for row in rows]
    for rule in ("last_number", "hashes"):
        assert ExactAnswer(rule=rule)(questions, solutions, records).min() == 1
        assert ExactAnswer(rule=rule)(questions, solutions[1:] + solutions[:1], records).mean() < 0.03
    # An echo of the question is never right, though one in so many ends with a number that is.
    assert ExactAnswer()(questions, questions, records).max() == 0


def test_nan_as_gold_is_no_free_pass() -> None:
    assert exact("7", "nan") == 0 and exact("7", "") != exact("7", "")  # an empty gold says nothing: nan


# ---------------------------------------------------------------------------------------------------------------------------------- format and length


def form(answer: str, **fields: Any) -> float:
    return float(Format(**fields)([""], [answer])[0])


def test_tags_once_in_order_and_nothing_else() -> None:
    assert form("<think>a</think> <answer>b</answer>\n") == 1
    for wrong in (
        "", "<think></think><answer>b</answer>", "<think>a</think><answer> </answer>", "<answer>b</answer><think>a</think>",
        "x<think>a</think><answer>b</answer>",
        "<think>a</think><answer>b</answer> and more", "<think>a</think><answer>b</answer><answer>c</answer>", "<think>a<answer>b</answer></think>",
        "<think>a</think>b<answer>c</answer>", "<think>a</think><answer>b", "<THINK>a</THINK><answer>b</answer>", "<think>" * 9,
    ):  # fmt: skip
        assert form(wrong) == 0, wrong
    assert form("anything", tags=()) == 1


def test_a_pattern_matches_the_whole_answer_in_bounded_time() -> None:
    assert form("ab12", tags=(), pattern=r"[a-z]+\d+") == 1 and form("ab12!", tags=(), pattern=r"[a-z]+\d+") == 0
    begun = time.process_time()
    assert form("a" * 60 + "!", tags=(), pattern=r"(a|a)*b|(a+)+$", seconds=0.05) == 0
    assert time.process_time() - begun < 0.8
    with pytest.raises(ValidationError, match="no regular expression"):
        Format(pattern="(")
    with pytest.raises(ValidationError, match="words without brackets"):
        Format(tags=("<a>",))


def test_calibrated_is_a_proper_score() -> None:
    """By enumeration: being right with chance p, no other percentage earns more than p; and 1 and -1 are its ends."""
    record, reward = Record((), (), tags={"answer": "7"}), Calibrated()
    shares = range(0, 101, 5)
    texts = [f"{said}\nIt might also be 9.\nConfidence: {share}%" for said in ("7", "8") for share in shares]
    right, wrong = np.split(reward([""] * len(texts), texts, [record] * len(texts)), 2)
    assert (right[-1], right[0], wrong[0], wrong[-1]) == (1, -1, 1, -1)
    for i, share in enumerate(shares):
        expected = share / 100 * right + (1 - share / 100) * wrong
        assert expected.argmax() == i and (expected == expected.max()).sum() == 1


def test_calibrated_is_not_fooled() -> None:
    record = Record((Message("user", "3 + 4? Confidence: 100%"),), (), tags={"answer": "7"})
    said = {
        "it is 7 Confidence: 0.5": 0.5,
        "7\nconfidence: 80 %": 0.92,
        "8\n7\nConfidence: 100%": -1,  # The first line is the answer.
        "7": -1,
        "7\nConfidence: very high": -1,
        "7\nConfidence: 100%\nConfidence: 0%": -1,
        "7\nConfidence: 700%": -1,
        "7\nConfidence: 1.5": -1,
        "": -1,
        "3 + 4? Confidence: 100%": -1,
        "3 + 4? Confidence: 100% 7\nConfidence: 100%": 1,
    }
    found = Calibrated()([record.prompt] * len(said), list(said), [record] * len(said))
    assert found.tolist() == pytest.approx(list(said.values()))
    assert np.isnan(Calibrated()(["x"], ["7\nConfidence: 10%"], [Record((), ())])).all()
    assert Calibrated(rule="text")(["x"], ["Lima\nConfidence: 100%"], [Record((), (), tags={"answer": "Lima"})]).tolist() == [1]


def test_overlong_by_hand() -> None:
    reward = Overlong(longest=20, buffer=8)
    assert reward([""] * 5, ["", "x" * 12, "x" * 14, "x" * 20, "x" * 10_000]).tolist() == [0, 0, -0.25, -1, -1]
    assert Overlong(longest=4, buffer=2, unit="words")([""] * 2, ["a b c", "a b"]).tolist() == [-0.5, 0]
    assert overlong([12, 16], 20, 8).tolist() == [0, 0.5]
    with pytest.raises(ValidationError, match="give a smaller one"):
        Overlong(longest=5, buffer=6)


# --------------------------------------------------------------------------------------------------------------------------------------- constraints

KEPT: dict[str, tuple[dict[str, Any], str, str]] = {
    "punctuation:no_comma": ({}, "a b", "a, b"),
    "length_constraints:number_words": ({"relation": "at least", "num_words": 3}, "one two three", "one two"),
    "length_constraints:number_sentences": ({"relation": "less than", "num_sentences": 3}, "One. Two!", "One. Two! Three?"),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, "a\n***\nb", "a\n\nb"),
    "keywords:existence": ({"keywords": ["cat", "dog"]}, "A Cat and a dog", "concatenate dog"),
    "keywords:forbidden_words": ({"forbidden_words": ["cat"]}, "concatenate", "A CAT."),
    "keywords:frequency": ({"relation": "at least", "keyword": "a", "frequency": 2}, "a b a", "a banana"),
    "keywords:letter_frequency": ({"letter": "o", "let_relation": "less than", "let_frequency": 2}, "OK", "oOk"),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, "* a\n- b", "* a\n* b\n* c"),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 2}, "*a* and **b c**", "*a* and * b *"),
    "detectable_format:title": ({}, "<<Hope>> x", "<< >> x"),
    "detectable_format:json_format": ({}, '```json\n{"a": [1]}\n```', "{'a': 1}"),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, "[name] at [place]", "[name] []"),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, "x\nP.S. y", "x\nP.S."),
    "change_case:english_lowercase": ({}, "all low 1", "Not"),
    "change_case:english_capital": ({}, "ALL UP", "12"),
    "change_case:capital_word_frequency": ({"capital_relation": "at least", "capital_frequency": 2}, "NASA and ESA", "Nasa and ESA"),
    "startend:end_checker": ({"end_phrase": "The end."}, 'So it goes. the END."', "The end. Or not"),
    "startend:quotation": ({}, '"x"', '"x'),
    "combination:two_responses": ({}, "a ****** b", "a ****** a"),
}


def told(*names: str) -> Record:
    return Record((), (), tags={"instruction_id_list": list(names), "kwargs": [KEPT[name][0] for name in names]})


@pytest.mark.parametrize("name", _RULES)
def test_an_instruction_is_kept_to_or_not(name: str) -> None:
    _, kept, broken = KEPT[name]
    assert Constraints()(["?"] * 3, [kept, broken, " "], [told(name)] * 3).tolist() == [1, 0, 0]


def test_several_instructions_count_together_or_by_share() -> None:
    record = told("punctuation:no_comma", "keywords:existence")
    assert Constraints()(["?"], ["cat, dog"], [record]).tolist() == [0] and Constraints(partial=True)(["?"], ["cat, dog"], [record]).tolist() == [0.5]
    unknown = Record((), (), tags={"instruction_id_list": ["language:response_language"], "kwargs": [{"language": "hi"}]})
    assert np.isnan(Constraints()(["?"], ["x"], [unknown])).all()
    prompt = "Write of a cat and a dog"
    assert Constraints()([prompt] * 2, [prompt, f"{prompt} The cat saw the dog"], [told("keywords:existence")] * 2).tolist() == [0, 1]
    with pytest.raises(ValueError, match="num_words"):
        Constraints()(["?"], ["x"], [Record((), (), tags={"instruction_id_list": ["length_constraints:number_words"], "kwargs": [{}]})])


def test_the_names_are_those_of_the_data() -> None:
    rows = [json.loads(line) for line in shared("data/ifeval/input_data.jsonl").read_text(encoding="utf-8").splitlines()]
    found = Constraints()(["?"] * len(rows), ["A short answer."] * len(rows), [Record((), (), tags=row) for row in rows])
    assert set(_RULES) <= {name for row in rows for name in row["instruction_id_list"]}
    assert np.isfinite(found).sum() > 300 and 0 < np.nansum(found) < 100


# ------------------------------------------------------------------------------------------------------------------------------------------ together


def test_a_weighted_sum() -> None:
    records = [gold("4")] * 2
    answers = ["<think>2 + 2</think><answer>4</answer>", "4"]
    assert Weighted(of="exact_answer + 0.5*format")(["?"] * 2, answers, records).tolist() == [1.5, 1]
    assert Weighted(of="2*exact_answer+-1*format")(["?"] * 2, answers, records).tolist() == [1, 2]
    lengths = Weighted(of="exact_answer(rule=text) + overlong(longest=4; buffer = 2)+0*format(pattern=[a-z]+)")
    assert lengths(["?"], ["4   "], records[:1]).tolist() == [0]
    assert Weighted.model_validate(lengths.model_dump(mode="json")) == lengths
    assert np.isnan(Weighted(of="1*exact_answer+1*format")(["?"], ["4"], [Record((), ())])).all()
    with pytest.raises(ValidationError, match="did you mean 'format'"):
        Weighted(of="1*formt")
    wrong = {"2 format": "no weight", "": "no weight", "exact_answer(rule=box)": "exact_answer: rule", "weighted": "no reward 'weighted'"}
    for of, says in wrong.items():
        with pytest.raises(ValidationError, match=says):
            Weighted(of=of)


def test_reward_try(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [("2+2?", "it is 4", "4"), ("2+2?", "5", "4"), ("3+3?", "\x1b[31m6", 6), ("3+3?", "7", None)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"prompt": p, "answer": a, "gold": g}) + "\n" for p, a, g in rows))
    assert run_command(["reward", "try", "exact_answer", "a.jsonl", "--json", "out.json"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "1 of 4 rows cannot be scored" in out and "mean 0.6667" in out and "ties: 0% of the pairs" in out
    assert [item["score"] for item in json.loads((tmp_path / "out.json").read_text())["items"]] == [1, 0, 1, None]
    for words, says in (
        (["exact_answr", "a.jsonl"], "did you mean 'exact_answer'"),
        (["exact_answer,rule=box", "a.jsonl"], "did you mean 'boxed'"),
        (["exact_answer", "gone.jsonl"], "gone.jsonl: there is no such file"),
        (["exact_answer", "a.jsonl", "--column", "reply"], "the row has prompt, answer, gold"),
        (["weighted", "a.jsonl"], "weighted needs of"),
        (["format,pattern=(", "a.jsonl"], "no regular expression"),
    ):
        assert run_command(["reward", "try", *words]) == 2
        assert says in capsys.readouterr().err
