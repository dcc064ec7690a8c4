"""Rewards of single tokens: they reach the tokens they speak of, and RLTF's line feedback blames the line that fails (S050)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from tempering.methods.credits.fine_grained import FineGrained
from tempering.methods.credits.greedy_baseline import GreedyBaseline
from tempering.methods.credits.returns import Returns
from tempering.methods.environments.records import Records
from tempering.methods.rewards.rltf import RLTF
from tempering.replications import _programs
from tempering.rollouts import acting
from tempering.rollouts.rows import covering
from tempering.rollouts.types import Earned, State, Trajectory, Turn
from tempering.sandbox.run import at_once
from tempering.sandbox.verdict import Verdict, judge
from tempering.types import Record, Run
from tests.unit.test_rollouts import TOKENIZER, Echo, live, stream
from tests.unit.test_verdict import LIMITS, TESTS, needs_sandbox


class Marked(Echo):
    """Takes a tenth from every sampled token but the last two."""

    turns: int = 1

    def along(self, played: Sequence[Trajectory], tokenizer: Any) -> Sequence[np.ndarray]:
        return [np.array([-0.1] * max(0, one.tokens - 2) + [0.0] * min(2, one.tokens)) for one in played]


def test_fine_grained_credit_by_hand() -> None:
    along_T = np.array([0.0, -0.3, 0.0, -0.3, -0.3])
    earned = Earned(
        np.array([0.0, -0.3, -0.6, -0.3, 0.7]), np.array([0, 0, 0, 1, 1]), np.array([0, 1]), greedy_N=np.array([0.25, -1.0]), along_T=along_T
    )
    assert FineGrained()(earned)["advantage"] == pytest.approx([-0.85, -1.15, -0.85, 1.7, 1.7])


def test_without_a_word_about_tokens_it_is_the_greedy_baseline() -> None:
    found = [stream(credit, Echo(turns=1)).next(Run(live(), 0, 0))["rollout"].extras["advantage"] for credit in (FineGrained(), GreedyBaseline())]
    assert torch.equal(*found) and found[0].abs().max() > 0


def test_what_is_said_of_tokens_is_earned_there_and_counts_for_what_stands_before() -> None:
    plain, marked = (stream(Returns(), environment).next(Run(live(), 0, 0))["rollout"] for environment in (Echo(turns=1), Marked()))
    assert torch.equal(plain.ids_T, marked.ids_T)
    for s in range(plain.num_segments):
        mine = (plain.segment_T == s) & (plain.weight_T != 0)
        less = plain.extras["advantage"][mine] - marked.extras["advantage"][mine]
        n = int(mine.sum())
        assert less.tolist() == pytest.approx([0.1 * max(0, n - 2 - t) for t in range(n)], abs=1e-6)
    # By tokens alone with the credit that tells them apart.
    fine = stream(FineGrained(), Marked()).next(Run(live(), 0, 0))["rollout"]
    greedy = stream(GreedyBaseline(), Echo(turns=1)).next(Run(live(), 0, 0))["rollout"]
    own = (fine.extras["advantage"] - greedy.extras["advantage"])[fine.weight_T != 0]
    assert set(np.round(own.tolist(), 5)) == {0.0, -0.1}


def test_a_checkpoint_keeps_what_was_said_of_tokens() -> None:
    made = stream(FineGrained(), Marked())
    played = made.acting(live()["policy"].model, 0)
    again = acting.from_json(json.loads(json.dumps(acting.to_json(played))))
    for one, other in zip(played.tries[0], again.tries[0], strict=True):
        assert all(map(np.array_equal, one.along, other.along)) and all(map(np.array_equal, one.reward, other.reward))
        assert one.greedy == other.greedy and len(one.along) == 3


def test_tokens_of_some_characters() -> None:
    ids = TOKENIZER("the red fox and he", add_special_tokens=False)["input_ids"]
    pieces = [TOKENIZER.decode(ids[:i]) for i in range(len(ids) + 1)]
    for begin, end in ((4, 7), (0, 3), (5, 6), (8, 15), (3, 3)):
        expected = [begin < end and len(a) < end and len(b) > begin for a, b in pairwise(pieces)]
        assert covering(TOKENIZER, ids, begin, end).tolist() == expected


@needs_sandbox
def test_the_sandbox_tells_the_line_of_an_error() -> None:
    deep = "def add(a, b):\n    return inner(a) + b\n\ndef inner(a):\n    if a < 0:\n        raise KeyError(a)\n    return a"
    assert judge(deep, TESTS, limits=LIMITS).lines == (0, 6)
    assert judge("def add(a, b):\n    c = (a +* b\n    return c", TESTS, limits=LIMITS).lines == (2, 2)
    assert judge("def add(a, b):\n    return 5", TESTS, limits=LIMITS).lines == (0, 0)


@needs_sandbox
def test_rltf_blames_the_line_that_fails() -> None:
    record, fence = Record((), (), tags={"tests": list(TESTS)}), "So:\n```python\n{}\n```\n"
    answers = {
        "def add(a, b):\n    c = a + d\n    return c": "    c = a + d\n",
        fence.format("def add(a, b):\n    return a +* b"): "    return a +* b\n",
        "def add(a, b):\n    return add(a, b)": "def add(a, b):\n    return add(a, b)",
        "def add(a, b):\n    return 5": "",
        "def add(a, b):\n    return a + b": "",
    }
    found = RLTF(fine=0.3).blamed(["?"] * len(answers), list(answers), [record] * len(answers))
    assert [answer[begin:end] for answer, (begin, end) in zip(answers, found, strict=True)] == list(answers.values())
    begun = Record((), (), tags={"prompt": "def add(a, b):\n    'Sum.'\n", "entry_point": "add", "test": "def check(f):\n    assert f(1, 2) == 3"})
    assert RLTF(fine=0.3).blamed(["?"], ["    c = a\n    return c + d"], [begun]) == [(10, 26)]


def test_records_take_the_price_from_the_blamed_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "the red fox"
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    played = [Trajectory(Record((), ()), (Turn((1,), tuple(ids), (-0.1,) * len(ids), text, True),), (0.0,), State(()))]
    assert Records(reward=RLTF()).along(played, TOKENIZER) is None
    # The test's own verdict, so that it needs no sandbox: the second "line" of this text does not exist, so all of it is blamed.
    monkeypatch.setattr(RLTF, "verdict", lambda self, answer, record: Verdict((False,), ("NameError: x",), (2,)))
    found = Records(reward=RLTF(fine=0.3)).along(played, TOKENIZER)
    assert found is not None and found[0].tolist() == pytest.approx([-0.3] * len(ids))


@needs_sandbox
def test_verdicts_read_off_the_syntax_tree_are_the_sandboxs() -> None:
    """What `temper replicate rltf` stands on: the same tests pass, the same kind of failure, the same line."""
    record = _programs.tasks(0, True)[0]
    lines = record.responses[0].messages[0].content.split("\n")
    codes = ["\n".join(lines), "\n".join(lines[:3]), "\n".join(["def g(x):", *lines[1:]]), "\n".join([*lines[:3], "    return a"])]
    codes += [
        "\n".join([*lines[:at], line, *lines[at + 1 :]]) for at in (1, 2, 3) for line in ("    a = d + 1", "    a = + 3", "    a = * 3", "    a b")
    ]
    found = at_once(lambda code: judge(code, record.tags["tests"], limits=LIMITS), codes)
    for code, theirs in zip(codes, found, strict=True):
        ours = _programs.verdict(code, record)
        assert (ours.passed, ours.lines) == (theirs.passed, theirs.lines), code
        assert [why.partition(":")[0] for why in ours.why] == [why.partition(":")[0] for why in theirs.why], code
    assert found[0].share == 1 and {line for verdict in found for line in verdict.lines} == {0, 2, 3, 4}


def test_a_sloppy_writer_puts_one_name_wrong_in_his_share_of_programs() -> None:
    records = _programs.tasks(0, False)
    sloppy = list(_programs.sloppy(records, 0.6, 0))
    passed = [_programs.verdict(r.responses[0].messages[0].content, r).share for r in sloppy]
    assert all(_programs.verdict(r.responses[0].messages[0].content, r).share == 1 for r in records)
    assert 0.3 < sum(share == 1 for share in passed) / len(passed) < 0.5
    assert not {r.id for r in records} & {r.id for r in _programs.tasks(0, True)}
