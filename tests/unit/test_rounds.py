"""Rounds: the stream that is made anew, what TPO and DITTO promise of every round, and whole runs of the recipe."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tempering.cases import talk
from tempering.config import Budget, Training
from tempering.errors import Interrupted, UserError
from tempering.execution import Report
from tempering.experiment import Experiment, Options, execute
from tempering.index import load_recipe
from tempering.making import Making
from tempering.methods.scopes.lora import LoRA
from tempering.methods.streams.ditto import DITTO
from tempering.methods.streams.tpo import TPO
from tempering.rounds import Rounds
from tempering.types import Message, Record, Row, Run, Segment

# ----------------------------------------------------------------------------------------------------------------------------------- the stream


def rows(first: int) -> list[Row]:
    return [{"train": (Segment(np.array([1, first + i], np.int32), np.array([0, 1], np.float32)),)} for i in range(3)]


def asked(log: list[int]) -> Rounds:
    def again(number: int, live: Any) -> list[Row]:
        log.append(number)
        return rows(100 * number)

    return Rounds(rows(0), again, every=4, batch_size=2, seed=5)


def taken(stream: Rounds, steps: int) -> list[list[int]]:
    return [stream.next(Run({"policy": None}, 0, 0))["train"].ids_T[1::2].tolist() for _ in range(steps)]


def test_a_round_s_rows_last_for_its_steps() -> None:
    log: list[int] = []
    found = taken(asked(log), 12)
    assert log == [1, 2]
    assert [{i // 100 for i in step} for step in found] == [{0}] * 4 + [{1}] * 4 + [{2}] * 4


@pytest.mark.parametrize("steps", [0, 3, 4, 6, 11])
def test_a_stream_that_is_put_back_goes_on_with_the_same_rows(steps: int) -> None:
    whole, other, log = taken(asked([]), 12), asked([]), list[int]()
    assert taken(other, steps) == whole[:steps]
    again = asked(log)
    again.load(json.loads(json.dumps(other.state())))
    assert taken(again, 12 - steps) == whole[steps:]


# ------------------------------------------------------------------------------------------------------------------------------------------- TPO


def test_the_judge_sees_no_thought_and_gives_the_same_to_the_same_response() -> None:
    seen: list[str] = []

    def judge(name: str, prompts: Sequence[tuple[Message, ...]], answers: Sequence[str]) -> list[float]:
        assert name == "marker" and [p[-1].content for p in prompts] == ["1 + 2?"] * len(answers)
        seen.extend(answers)
        return [float(len(text)) for text in answers]

    outputs = ["Thought: secret one. Response: 3", "Thought: secret two, Response: 3", "Response: three", "secret Response:", "secret"]
    making = Making(0, lambda prompts, n, temperature: [outputs], judge)
    (pair,) = TPO(judge="marker")([talk("1 + 2?", "3")], making)
    assert seen == ["3", "3", "three"]
    assert [r.messages[0].content for r in pair.responses] == ["Response: three", "Thought: secret one. Response: 3"]
    assert "secret" not in TPO().response(outputs[1])


@pytest.mark.parametrize("seed", range(5))
def test_without_a_cost_of_length_the_raw_mark_decides_and_the_mark_must_stand_there(seed: int) -> None:
    source = np.random.default_rng(seed)
    marks = {f"r{i}" + "x" * int(source.integers(9)): float(m) for i, m in enumerate(source.normal(size=6))}
    outputs = [*(f"t Response: {text}" for text in marks), "a better one without the word"]
    making = Making(0, lambda prompts, n, temperature: [outputs], lambda name, prompts, answers: [marks[a] for a in answers])
    (pair,) = TPO(judge="marker")([talk("Hi", "ho")], making)
    best, worst = max(marks, key=lambda t: marks[t]), min(marks, key=lambda t: marks[t])
    assert [r.messages[0].content for r in pair.responses] == [f"t Response: {best}", f"t Response: {worst}"]


def test_a_judge_is_needed_where_one_is_named() -> None:
    making = Making(0, lambda prompts, n, temperature: [["Response: a", "Response: b"]])
    with pytest.raises(UserError, match="needs the marks of my-judge"):
        list(TPO(judge="my-judge")([talk("Hi", "ho")], making))


# ----------------------------------------------------------------------------------------------------------------------------------------- DITTO


def ditto_rounds(rounds: int, samples: int = 7, demos: int = 3) -> list[list[Record]]:
    memory: dict[str, Any] = {}
    records = [talk(f"p{i}", f"demo {i}") for i in range(demos)]
    found = []
    for t in range(rounds):
        made = DITTO(samples=samples)
        ask = lambda prompts, n, temperature, t=t: [[f"{p[-1].content} of {t}, {k}" for k in range(n)] for p in prompts]  # noqa: E731
        found.append(list(made(records, Making(0, ask, memory=memory))))
        memory = json.loads(json.dumps(memory))
    return found


def test_shares_are_caps() -> None:
    """A first round has pairs with current samples only; a second one may lack earlier ones, and a later one has 70, 20 and 10%."""
    counts = [Counter(r.tags["compared"] for r in made) for made in ditto_rounds(4)]
    assert counts[0] == {"current": 21}
    assert all(c == {"current": 21, "earlier": 6, "between": 3} for c in counts[1:])


def test_no_policy_is_better_than_itself_by_any_way() -> None:
    """Every pair goes down in the order demonstration, last round, ..., first round: so there is no circle."""

    def rank(text: str) -> int:
        return 99 if text.startswith("demo") else int(text.split(" of ")[1].split(",")[0])

    for made in ditto_rounds(4):
        for record in made:
            better, worse = (rank(r.messages[0].content) for r in record.responses)
            assert better > worse and record.better == ((0, 1),)


# ------------------------------------------------------------------------------------------------------------------------------------ whole runs

SMALL: dict[str, Any] = {
    "model": "builtin:tiny", "max_new_tokens": 6, "budget": Budget(keep="none", max_test=2), "scope": LoRA(r=2), "rounds": 2, "every": 2,
    "training": Training(batch_size=4, save_every=1, precision="fp32"),
}  # fmt: skip


@pytest.fixture
def demos(tmp_path: Path) -> str:
    path = tmp_path / "demos.jsonl"
    lines = [json.dumps({"prompt": f"Where is house {i}?", "completion": ["Oslo", "Lima", "Cairo"][i % 3]}) for i in range(6)]
    path.write_text("\n".join(lines))
    return str(path)


def run(name: str, options: Options, **values: Any) -> Report:
    return execute(load_recipe(name), {**SMALL, **values}, options)


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_ditto_begins_at_log_2_and_resumes_to_the_same_pairs(demos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run("ditto", Options(out=whole), data=demos, make=DITTO(samples=2))
    assert losses(whole)[0] == pytest.approx(math.log(2), abs=1e-5)
    kinds = [[json.loads(line)["tags"]["compared"] for line in (whole / f"made-{i}" / "records.jsonl").read_text().splitlines()] for i in range(2)]
    assert set(kinds[0]) == {"current"} and "earlier" in kinds[1]
    with monkeypatch.context() as patch:
        given = Rounds.next

        def stop(self: Rounds, run_: Run) -> Any:
            if self.taken == 3:
                raise Interrupted("stopped by a test")
            return given(self, run_)

        patch.setattr(Rounds, "next", stop)
        with pytest.raises(Interrupted):
            run("ditto", Options(out=stopped, again=True), data=demos, make=DITTO(samples=2))
    # What was asked is read back: asking once more would fail.
    monkeypatch.setattr(Experiment, "ask", lambda self, policy, quiet=False: None)
    run("ditto", Options(resume=stopped), data=demos, make=DITTO(samples=2))
    assert losses(stopped) == pytest.approx(losses(whole), abs=1e-6)


def test_tpo_begins_every_round_at_log_2(tmp_path: Path) -> None:
    """The reference is the model at the beginning of the round."""
    path = tmp_path / "sums.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"What is {i} + 3?", "completion": str(i + 3)}) for i in range(12)))
    out = tmp_path / "run"
    # The tiny model writes no thoughts: what stands behind the first space is taken for the response.
    run("tpo", Options(out=out), data=str(path), make=TPO(samples=12, temperature=1.5, mark=" ", ask=""), max_new_tokens=12)
    found = losses(out)
    assert [found[i] for i in (0, 2)] == pytest.approx([math.log(2)] * 2, abs=1e-4)
    assert abs(found[1] - math.log(2)) > 1e-5


def test_a_plan_asks_nobody(demos: str) -> None:
    from tempering.planning.rehearse import rehearse

    values = {**SMALL, "data": demos, "make": TPO(samples=4)}
    found = rehearse(load_recipe("tpo"), values, lambda _: None)
    assert found.tokens > 8 * SMALL["max_new_tokens"]
