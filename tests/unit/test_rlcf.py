"""RLCF's reward: whatever compiles is worth more than whatever does not; with a discriminator that says one thing it is the compiler's word alone."""

from __future__ import annotations

import numpy as np
import pytest

from tempering.methods.rewards.rlcf import RLCF
from tempering.types import Message, Record, Response

ASK = (Message("user", "write it"),)
REFERENCE = "def f(x):\n    return x + 1"
RECORD = Record(ASK, (Response((Message("assistant", REFERENCE),)),))
NOT = (
    "",
    "   ",
    "# nothing",
    "def f(x)\n    return x",
    "(1 + 2",
    "x = \0",
    "lambda" * 50 + "(",
    "(" * 5000 + ")" * 5000,
    "-" * 9000 + "1",
    "a\n" * 20_000,
)
"""No programs, among them those that are written to hurt a parser."""


def scores(*answers: str, reward: RLCF | None = None) -> list[float]:
    return (reward or RLCF())([ASK] * len(answers), answers, [RECORD] * len(answers)).tolist()


@pytest.mark.parametrize("code", NOT, ids=range(len(NOT)))
def test_what_is_no_program_does_not_compile(code: str) -> None:
    assert not RLCF.compiles(code) and scores(code) == [-1]


def test_every_program_is_worth_more_than_every_other_text() -> None:
    programs = [REFERENCE, f"```python\n{REFERENCE}\n```", "def f(x):\n    return x", "pass", "0"]
    found = scores(*programs, REFERENCE + ")")
    assert found[0] == found[1] == 1 and found[-1] == -1
    assert min(found[:-1]) >= 0 and found[2] > found[3], "the more alike, the better"


def test_parts_in_common_are_counted_by_hand() -> None:
    record = Record(ASK, (Response((Message("assistant", "a + b"),)),))
    # "a + " is common: twice 4 of 5 + 5 characters.
    assert RLCF()([ASK], ["a + c"], [record]).tolist() == [0.8]


def test_a_constant_discriminator_leaves_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def judge(prompts: list[tuple[Message, ...]], answers: list[str]) -> np.ndarray:
        asked.extend(prompt[-1].content for prompt in prompts)
        return np.zeros(len(answers))

    monkeypatch.setattr("tempering.methods.rewards._saved.named", lambda folders: judge)
    assert scores("x = 1", "x = ", "y", reward=RLCF(model="some")) == [0.5, -1, 0.5]
    assert len(asked) == 2 and all(text.startswith("write it") and REFERENCE in text for text in asked), "only what compiles is compared"


def test_a_record_without_a_program_is_not_scored() -> None:
    assert np.isnan(RLCF()([ASK], ["x"], [Record(ASK, ())])).all()
    with pytest.raises(ValueError, match="refused"):
        RLCF(refused=0.5)
