"""Searching: calls are data and never code, passages are found, paid once, and get no weight; what is not known can be looked up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tempering.errors import UserError
from tempering.methods.environments.search import NOTHING, Search
from tempering.rollouts.rows import Seen, rewards, segments
from tempering.rollouts.tools import Tool, called
from tempering.rollouts.types import State, Trajectory, Turn
from tempering.types import Record
from tests.conftest import make_tokenizer

pytest.importorskip("bm25s")
PEOPLE = Search(people=20)


def call(query: str) -> str:
    return f"<tool_call>{json.dumps({'name': 'search', 'arguments': {'query': query}})}</tool_call>"


def played(env: Search, task: Record, *answers: str) -> State:
    async def go() -> State:
        state = await env.reset(task)
        for answer in answers:
            assert not state.done
            state = await env.step(state, answer)
        return state

    return asyncio.run(go())


def test_what_is_asked_stands_in_a_passage_that_the_question_finds() -> None:
    tasks = [*PEOPLE.tasks("train", 60), *PEOPLE.tasks("test", 20)]
    found = [str(task.tags["answer"]) in PEOPLE.find(task.prompt[-1].content) for task in tasks]
    assert np.mean(found) > 0.9
    assert PEOPLE.find("zzz qqq") == PEOPLE.find("") == NOTHING
    assert len(PEOPLE.find(tasks[0].prompt[-1].content).splitlines()) <= PEOPLE.top


def test_what_can_be_found_is_not_known() -> None:
    """builtin:tiny knows a hundred people, none of these."""
    from tempering.methods.probes.episode_reward import EpisodeReward
    from tempering.proof.small import score, tiny

    assert score(tiny(), EpisodeReward(environment=PEOPLE, n=30, max_new_tokens=16)) < 0.1


def test_a_search_is_answered_and_an_answer_ends_it() -> None:
    env, (task,) = Search(people=20, searches=2, searching=0.25), PEOPLE.tasks("train", 1)
    question, right = task.prompt[-1].content, str(task.tags["answer"])
    state = played(env, task, call(question))
    assert not state.done and state.reward == 0.25 and state.messages[-1].role == "tool" and right in state.messages[-1].content
    assert played(env, task, call(question), call("more")).reward == 0, "paid once"
    assert played(env, task, "<tool_call>{}</tool_call>", call(question)).reward == 0.25, "and only for one that is in order"
    ends = [played(env, task, *said) for said in ((right,), (call("a"), right), (call("a"), call("b"), call("c")), ("no idea",))]
    assert all(end.done for end in ends)
    judged = env.judge([Trajectory(task, (Turn((), (), (), end.messages[-1].content, True),), (0.0,), end) for end in ends])
    assert judged.tolist() == [1, 1, 0, 0]
    assert PEOPLE.binary and not env.binary


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not json", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('["search"]', "no such tool"),
        ('{"name": ["search"]}', "no such tool"),
        ('{"name": "__import__", "arguments": {"query": "os"}}', "There is search."),
        ('{"name": "search"}', "takes query"),
        ('{"name": "search", "arguments": {"query": 3}}', "takes query"),
        ('{"name": "search", "arguments": {"query": "x", "self": "y"}}', "takes query"),
    ],
)
def test_a_call_out_of_order_is_told_what_is_wrong(text: str, said: str) -> None:
    (reply,), fine = called(f"<tool_call>{text}</tool_call>", PEOPLE.tools)
    assert said in reply.content and fine == 0 and reply.role == "tool"


def test_several_calls_are_answered_in_order_and_an_open_one_too() -> None:
    tool = Tool("say", "Say it.", {"what": "a word"}, lambda what: what.upper())
    one, other = ("<tool_call>" + json.dumps({"name": "say", "arguments": {"what": word}}) for word in "ab")
    replies, fine = called(f"hm {one}</tool_call>\n{other}", [tool])
    assert [r.content for r in replies] == ["A", "B"] and fine == 2
    assert called("no call", [tool]) == ([], 0)
    assert tool.schema["function"]["parameters"]["required"] == ["what"]


def test_what_was_found_has_no_weight() -> None:
    """Whatever the template: of a conversation with a search, only the policy's two turns are trained on, token by token."""
    tokenizer: Any = make_tokenizer()
    (task,) = PEOPLE.tasks("train", 1)
    question, right = task.prompt[-1].content, str(task.tags["answer"])

    def ids(text: str) -> tuple[int, ...]:
        return (*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id)

    async def go() -> tuple[Trajectory, Sequence[tuple[int, ...]]]:
        state = await PEOPLE.reset(task)
        seen, turns = Seen.opening(tokenizer, state), []
        for text in (call(question), right):
            turns.append(Turn(seen.ids, ids(text), (-0.5,) * len(ids(text)), text, True))
            state = await PEOPLE.step(state, text)
            if not state.done:
                seen = seen.then(tokenizer, turns[-1].ids, state)
        return Trajectory(task, tuple(turns), (0.0, 0.0), state), [turn.ids for turn in turns]

    trajectory, said = asyncio.run(go())
    (segment,) = segments(trajectory)
    own = segment.ids[segment.weight != 0].tolist()
    assert own == [*said[0], *said[1]] and len(rewards(trajectory, 1.0)) == len(own)
    between = tokenizer.decode(segment.ids[segment.weight == 0].tolist())
    assert PEOPLE.find(question).split()[0] in between
    assert not segment.extras["sampled_logp"][segment.weight == 0].any()


def test_passages_and_questions_of_ones_own(tmp_path: Path) -> None:
    passages, questions = tmp_path / "passages.jsonl", tmp_path / "questions.jsonl"
    homes = {"fox": "wood", "eel": "sea", "owl": "barn"}
    passages.write_text("".join(json.dumps({"text": f"The {a} lives in the {b}."}) + "\n" for a, b in homes.items()))
    rows = [{"prompt": f"Where does the {a} live?", "completion": b} for a, b in homes.items()]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    env = Search(data=str(questions), passages=str(passages), test=str(questions), top=1)
    assert [env.find(task.prompt[-1].content) for task in env.tasks("test")] == list(env.texts)
    assert "search" in env.name and env.tasks("train")[0].prompt[0].role == "system"
    with pytest.raises(UserError, match="no plain text"):
        _ = Search(data=str(questions), passages=str(questions)).texts
    with pytest.raises(ValueError, match="data and passages"):
        Search(data=str(questions))
    missing: Any = Search(data=str(tmp_path / "none.jsonl"), passages=str(passages))
    with pytest.raises(UserError, match=r"none\.jsonl"):
        missing.tasks("test")
