"""Tailored learning: the teacher sees the student's mistake, a rationale that ends wrongly is not learned, and the rows carry the triplets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tempering as tp
from tempering.cases import talk
from tempering.data.reflected import reflected_row
from tempering.lessons import from_lines
from tempering.making import Making, spoken
from tempering.methods.streams.tailored import Tailored
from tempering.proof.small import tiny
from tempering.types import Message
from tempering.worlds.arithmetic import Arithmetic

SMALL: dict[str, Any] = {"model": "builtin:tiny", "rounds": 2, "every": 2, "batch_size": 4, "max_test": 4, "keep": "none", "precision": "fp32"}
SMALL |= {"max_new_tokens": 24, "lr": 1e-2}


def written(folder: Path) -> str:
    path = folder / "sums.jsonl"
    rows = [{"prompt": item["prompt"], "completion": f"It is {item['answer']}"} for item in Arithmetic(operations=("add",)).items("train", 24)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_teacher_sees_the_mistake_and_must_end_right() -> None:
    asked: list[str] = []

    def student(prompts: Sequence[tuple[Message, ...]], n: int, temperature: float) -> list[list[str]]:
        return [["7"] * n for _ in prompts]

    def teacher(prompts: Sequence[tuple[Message, ...]], n: int, temperature: float) -> list[list[str]]:
        asked.extend(spoken(prompt) for prompt in prompts)
        return [["7 is too much, for 1 + 1 = 2"], ["It is 5"]]

    making = Making(0, student, taught=teacher)
    (made,) = Tailored(samples=1, show=" You said {attempt}.")([talk("1 + 1?", "2"), talk("2 + 2?", "4")], making)
    assert asked == ["1 + 1? You said 7.", "2 + 2? You said 7."]
    assert [spoken(response.messages) for response in made.responses] == ["7 is too much, for 1 + 1 = 2", "7"]
    assert spoken(made.prompt) == "1 + 1?" and dict(making.dropped) == {"the teacher's rationale ends wrongly": 1}


def test_a_row_has_three_parts_and_what_is_not_there_has_no_weight() -> None:
    tokenizer = tiny().tokenizer
    three = reflected_row(talk("1 + 1?", answers=["So 2", "3", "it is 2"], better=[(0, 1), (2, 1)]), tokenizer)
    two = reflected_row(talk("1 + 1?", answers=["So 2", "3"], better=[(0, 1)]), tokenizer)
    assert three is not None and two is not None and sorted(three) == ["chosen", "negative", "positive"]
    for row, part, text in ((three, "chosen", "So 2"), (three, "negative", "3"), (three, "positive", "it is 2"), (two, "negative", "3")):
        (segment,) = row[part]
        assert text in tokenizer.decode(segment.ids[segment.weight != 0])
    (positive,), (chosen,) = two["positive"], two["chosen"]
    assert not positive.weight.any() and positive.ids.tolist() == chosen.ids.tolist()


def test_a_run_goes_round_by_round(tmp_path: Path) -> None:
    data = written(tmp_path)
    report = tp.run("tailored", out=tmp_path / "run", again=True, data=data, teacher="builtin:tiny", **SMALL, **{"make.show": ""})
    assert report.ledger.probes
    first, second = (from_lines((tmp_path / "run" / f"made-{i}" / "records.jsonl").read_text()) for i in (0, 1))
    assert first and {record.id for record in first} <= {record.id for record in second}
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 4


def test_without_reflection_it_is_fine_tuning_on_the_rationales(tmp_path: Path) -> None:
    data = written(tmp_path)

    def losses(name: str, **how: Any) -> list[float]:
        tp.run("tailored", out=tmp_path / name, again=True, data=data, **{**SMALL, "rounds": 1, **how})
        return [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]

    plain, half, whole = (losses(str(weight), reflection=weight) for weight in (0.0, 0.5, 1.0))
    # The first step's rows and weights are the same, so the losses lie on a line.
    assert abs(plain[0] + whole[0] - 2 * half[0]) < 1e-5 and whole[0] > plain[0]
