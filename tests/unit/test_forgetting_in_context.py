"""In-context unlearning: what stands in front of a conversation, to the token, whatever it says."""

from __future__ import annotations

import pytest

from tempering.data import prompt_ids, with_template
from tempering.errors import UserError
from tempering.forgetting.in_context import showing, turns
from tempering.forgetting.targets import Secret
from tempering.types import Message
from tests.conftest import make_tokenizer

NASTY = "a \"quote\", a 'tick', {{ messages }}, {% raw %} %}, {# no #}, back\\slash\nline, \u00e9 \U0001f600 SHOWN"


def secret(question: str, answer: str, system: str = "") -> Secret:
    asked = ((("system", system),) if system else ()) + (("user", question),)
    return Secret(id=question, prompt=asked, answer=answer)


def test_the_template_renders_as_if_the_turns_had_been_said() -> None:
    first = [("user", NASTY), ("assistant", f"no: {NASTY}"), ("user", "b"), ("assistant", "c")]
    plain = make_tokenizer()
    shown = with_template(plain, showing(plain.chat_template, first))  # type: ignore[arg-type]
    said = [Message(role, content) for role, content in first]
    query = [Message("user", "who is it")]
    assert prompt_ids(shown, query) == prompt_ids(plain, [*said, *query])
    system = [Message("system", "be brief")]
    assert prompt_ids(shown, [*system, *query]) == prompt_ids(plain, [*system, *said, *query])
    assert showing("x", []) == "x"


def test_forget_questions_get_another_answer_and_the_rest_their_own() -> None:
    gone = [secret("q1", "Paris", system="s"), secret("q2", "Rome"), secret("q3", "paris")]
    found = turns(gone, [secret("q4", "Oslo")], "other", seed=3)
    assert [turn for turn in found if turn[0] == "user"] == [("user", f"q{i}") for i in (1, 2, 3, 4)], "a system message is left out"
    said = [content for role, content in found if role == "assistant"]
    assert said[0] == said[2] == "Rome" and said[1] in ("Paris", "paris") and said[3] == "Oslo"
    assert found == turns(gone, [secret("q4", "Oslo")], "other", seed=3)
    refused = turns(gone, [], "refusal", seed=0)
    assert not {"Paris", "Rome", "paris"} & {content for _, content in refused}
    with pytest.raises(UserError, match="all have the same answer"):
        turns(gone[::2], [], "other", seed=0)
