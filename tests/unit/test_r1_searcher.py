"""Answer F1 by hand, what tries to get round it, and the two stages of R1-Searcher: what each pays, and that the second goes on from the first."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tempering as tp
from tempering.methods.rewards.answer_f1 import AnswerF1
from tempering.types import Message, Record

ASK = (Message("user", "who?"),)


def score(reward: AnswerF1, answer: str, right: Any = "Ada Example of Bergen") -> float:
    (found,) = reward([ASK], [answer], [Record(ASK, (), tags={"answer": right} if right else {})]).tolist()
    return found


@pytest.mark.parametrize(
    ("said", "wanted", "worth"),
    [
        ("Ada Example", "Ada Example of Bergen", 2 * 2 / (2 + 4)),
        ("the ADA example, of Bergen!", "Ada Example of Bergen", 1),
        ("Ada Ada Ada", "Ada Example", 2 * 1 / (3 + 2)),
        ("nobody", "Ada", 0),
        ("the", "a", 0),
    ],
)
def test_words_in_common_are_counted_as_often_as_they_stand(said: str, wanted: str, worth: float) -> None:
    assert AnswerF1.f1(said, wanted) == AnswerF1.f1(wanted, said) == pytest.approx(worth)


def test_both_stages_pay_what_the_paper_says() -> None:
    second, first = AnswerF1(), AnswerF1(right=0.0, formed=0.5, malformed=0.0)
    assert [score(r, "Ada Example of Bergen") for r in (first, second)] == [0.5, 1]
    assert [score(r, "nobody") for r in (first, second)] == [0.5, 0]
    for bad in ("", "  ", "word " * 11, '<tool_call>{"name": "search"}</tool_call>', "Bergen <tool_call>"):
        assert [score(r, bad) for r in (first, second)] == [0, -2]
    assert score(second, "Bergen", ["Oslo", "Bergen"]) == 1, "the best of several right answers"
    assert np.isnan(score(second, "Ada", None))


def test_one_tag_counts_and_many_do_not() -> None:
    tagged = AnswerF1(rule="tag")
    assert score(tagged, "I think <answer>Ada Example of Bergen</answer>") == 1
    for bad in ("Ada Example of Bergen", "<answer>Ada</answer><answer>Bergen</answer>", "<answer>Ada", "<answer></answer>"):
        assert score(tagged, bad) == -2


def test_the_first_stage_pays_searching_and_the_second_goes_on_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bm25s")
    from tempering.methods.environments.search import Search
    from tempering.rollouts.stream import Conversations

    seen, begin = list[tuple[Search, Counter[str]]](), Conversations.__init__

    def noted(self: Conversations, tokenizer: Any, environment: Search, tasks: Any, *args: Any, **more: Any) -> None:
        seen.append((environment, Counter(task.id for task in tasks)))
        begin(self, tokenizer, environment, tasks, *args, **more)

    monkeypatch.setattr(Conversations, "__init__", noted)
    small: dict[str, Any] = {"model": "builtin:tiny", "steps": 1, "batch_size": 2, "samples": 2, "max_new_tokens": 8, "max_test": 2, "keep": "none"}
    tp.run("r1_searcher", out=tmp_path / "run", again=True, **small, precision="fp32", tasks=6, search_steps=2, kl_cost=0.1)
    first, last = ((tmp_path / "run" / place / "metrics.jsonl").read_text().splitlines() for place in ("stage-1", ""))
    assert (len(first), len(last)) == (2, 1)
    assert json.loads(last[0])["sampled_kl"] == pytest.approx(0, abs=1e-4), "the reference is the model after the first stage"
    made: dict[int, tuple[Search, Counter[str]]] = dict(enumerate(seen))
    (one, asked), (two, others) = made[0], made[1]
    assert (one.searching, one.reward) == (0.5, AnswerF1(right=0.0, formed=0.5, malformed=0.0)) and (two.searching, two.reward) == (0, AnswerF1())
    assert not asked & others and asked.total() + others.total() == 6
