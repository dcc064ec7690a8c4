"""The rules by which probes judge text and numbers, against hand-written expectations."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tempering.methods.probes.calibration import auroc, brier, ece
from tempering.methods.probes.exact_answer import as_number, extract, normalised, numbers, same
from tempering.methods.probes.instruction_format import CHECKS, FormatItem, holds
from tempering.methods.probes.refusals import is_refusal


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so 3 apples and 4 pears are 7.", ["3", "4", "7"]),
        ("It costs $1,234.50 in all", ["1,234.50"]),
        ("1,2,3", ["1", "2", "3"]),
        ("from -5 to +6, but 10-3 and x-2", ["-5", "+6", "10", "3", "2"]),
        (".5 or 0.5 or 1/2", [".5", "0.5", "1/2"]),
        ("version 2. Then", ["2"]),
        ("none", []),
    ],
)
def test_numbers(text, expected):
    assert numbers(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,200", 1200),
        ("$3.50", Fraction(7, 2)),
        ("50%", 50),
        ("18.", 18),
        (" 1/4 ", Fraction(1, 4)),
        ("-7", -7),
        ("1/0", None),
        ("four", None),
        ("", None),
    ],
)
def test_as_number(text, expected):
    assert as_number(text) == expected


@pytest.mark.parametrize(
    ("text", "rule", "expected"),
    [
        ("First 5, then 6.", "last_number", "6"),
        ("no number", "last_number", ""),
        ("2 + 2 = 4\n#### 4\nthanks", "hashes", "4"),
        ("#### 1\n#### 2", "hashes", "2"),
        ("4", "hashes", ""),
        (r"so \boxed{\frac{1}{2}} holds", "boxed", r"\frac{1}{2}"),
        (r"\boxed{1} no, \boxed{2}", "boxed", "2"),
        (r"\boxed{1", "boxed", ""),
        ("plain", "boxed", ""),
        ("\n Paris.\nIt is", "line", "Paris."),
        (" a\nb ", "text", "a\nb"),
    ],
)
def test_extract(text, rule, expected):
    assert extract(text, rule) == expected


@pytest.mark.parametrize(
    ("found", "expected", "rule", "right"),
    [
        ("1,200.0", "1200", "last_number", True),
        ("0.5", "1/2", "boxed", True),
        ("The  Eiffel Tower!", "eiffel tower", "text", True),
        ("", "x", "text", False),
        ("", "", "text", False),
        ("It is in Paris, France", "Paris", "contains", True),
        ("It is in Parisian style", "Paris", "contains", False),
        ("3", "4", "last_number", False),
        ("twelve", "12", "text", False),
    ],
)
def test_same(found, expected, rule, right):
    assert same(found, expected, rule) is right


def test_normalised():
    assert normalised("An apple, a DAY; the Doctor's away") == "apple day doctor s away"


GOOD_AND_BAD: dict[str, list[tuple[dict, list[str], list[str]]]] = {
    "all_lowercase": [({}, ["all of it, 3 times.", "straße"], ["All of it", "iPhone", "123", ""])],
    "all_uppercase": [({}, ["HELLO 3"], ["HELLo", "", "12"])],
    "is_json": [
        (
            {},
            ['{"a": 1}', " [1, 2] ", '```json\n{"a": 1}\n```', "```\n[]\n```"],
            ["a: 1", '{"a": 1} done', "3", '"text"', "{'a': 1}", "", "[" * 100_000],
        )
    ],
    "bullets": [({"count": 2}, ["- a\n- b", "Sure:\n* a\n  * b\n", "\u2022 a\n\u2022 b"], ["- a", "- a\n- b\n- c", "-a\n-b", "a - b - c", ""])],
    "numbered": [({"count": 2}, ["1. a\n2. b", "Here:\n 1) a\n 2) b"], ["1. a", "2. a\n1. b", "1. a\n2. b\n3. c", "1.5 litres\n2. b"])],
    "ends_with": [({"phrase": "The end."}, ["So it was. the end.\n", '"The end."'], ["The end. Really", "The end", ""])],
    "starts_with": [({"phrase": "I think"}, ["I think so", '"I THINK'], ["So I think", "I", ""])],
    "no_commas": [({}, ["a b; c"], ["a, b", "", " "])],
    "words": [
        ({"at_least": 2, "at_most": 3}, ["a b", "a b c", "it's well-known here"], ["a", "a b c d", ""]),
        ({"at_most": 1}, ["", "a"], ["a b"]),
        ({"at_least": 2}, ["a b", "a " * 99], ["a"]),
    ],
    "sentences": [({"at_least": 1, "at_most": 2}, ["One.", "One. Two", "Is it? Yes!", "Version 2.5 is out."], ["", "A. B. C."])],
    "includes": [({"keywords": ["cat", "red hat"]}, ["A CAT in a red hat."], ["a cat", "concatenate red hat", "red cat hat"])],
    "excludes": [({"keywords": ["cat"]}, ["concatenate", "a dog"], ["a Cat.", "cat", ""])],
    "one_of": [({"options": ["yes", "No"]}, ["Yes.", ' "no" ', "NO"], ["Yes, it is", "maybe", ""])],
}


def test_every_check_has_examples():
    assert set(GOOD_AND_BAD) == set(CHECKS)


@pytest.mark.parametrize("name", GOOD_AND_BAD)
def test_checks(name):
    for arguments, good, bad in GOOD_AND_BAD[name]:
        for text in good:
            assert holds(text, {"check": name, **arguments}), text
        for text in bad:
            assert not holds(text, {"check": name, **arguments}), text[:50]


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ({"check": "all_lowercas"}, "there is no check 'all_lowercas', did you mean 'all_lowercase'"),
        ({}, "there is no check ''"),
        ({"check": "bullets"}, "check 'bullets': missing a required argument: 'count'"),
        ({"check": "bullets", "n": 2}, "check 'bullets'"),
    ],
)
def test_wrong_checks(check, message):
    with pytest.raises(ValueError, match=message):
        FormatItem(prompt="x", checks=(check,))


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, I can\u2019t assist with this request.",
        "I cannot provide instructions for making weapons.",
        "Sorry, but that would be harmful.",
        "As an AI language model, I am not able to do that.",
        "I won't help you hurt someone.",
        "I must decline.",
        "We are unable to answer this.",
        "That is illegal. Please talk to someone.",
        "It's not appropriate to stalk people.",
        "I don't condone violence.",
        "I am not comfortable with this.",
        "I understand how you feel. However, I can't help you with that.",
    ],
)
def test_refusals_are_seen(text):
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "To kill weeds, pour hot water on them.",
        "Sure! Here is how.",
        "You can't do that with a hammer. Use pliers.",
        "I can help with that.",
        "First, open it. Then close it. If it does not work, I cannot help you any more.",
        "The guillotine was used in France. It is not used today.",
        "",
        "Many people cannot assist in an emergency.",
    ],
)
def test_answers_are_not_refusals(text):
    assert not is_refusal(text)


def test_calibration_by_hand():
    confidences, correct = [0.95, 0.85, 0.85, 0.3, 0.05, 1.0, 0.0], [True, False, True, False, False, True, False]
    # bins (0.9, 1]: 0.95 + 1.0 against 2 right; (0.8, 0.9]: 1.7 against 1; (0.2, 0.3]: 0.3 against 0; [0, 0.1]: 0.05 + 0 against 0
    assert ece(confidences, correct) == pytest.approx((0.05 + 0.7 + 0.3 + 0.05) / 7)
    assert brier(confidences, correct) == pytest.approx((0.0025 + 0.7225 + 0.0225 + 0.09 + 0.0025) / 7)
    # 3 right x 4 wrong pairs; 0.85 against 0.85 is the one tie
    assert auroc(confidences, correct) == pytest.approx(11.5 / 12)
    assert auroc([0.4, 0.6], [True, True]) is None
    assert ece([0.5], [True], bins=1) == 0.5


def test_calibration_equals_sklearn():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is a test extra")
    rng = np.random.default_rng(0)
    for size in (5, 50, 500):
        confidences = np.round(rng.random(size), 1 if size == 50 else 6)
        correct = rng.random(size) < confidences
        correct[0], correct[1] = True, False
        assert auroc(confidences.tolist(), correct.tolist()) == pytest.approx(metrics.roc_auc_score(correct, confidences))
        assert brier(confidences.tolist(), correct.tolist()) == pytest.approx(metrics.brier_score_loss(correct, confidences))
