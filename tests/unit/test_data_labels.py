"""Labels of steps, answers and classes: how they are read, and at which token they are learned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tempering.data import DataError, RowReport, class_of, classed_row, read, stepped_row
from tempering.types import Message, Record, Response
from tests.conftest import make_tokenizer

TOKENIZER = make_tokenizer()


def written(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def stepped(path: Path, steps: list[str], labels: list[object]) -> Record:
    (record,) = read(written(path, {"prompt": "Sum?", "completions": steps, "labels": labels}), say=lambda _: None)
    return record


@pytest.mark.parametrize("steps", [["2 + 2 = 4", "So it is four."], ["né 🦊", " a", "é"], ["one"], ["a\nb", "c  d", "e"]])
def test_a_step_s_label_stands_at_the_token_that_ends_it(tmp_path: Path, steps: list[str]) -> None:
    labels: list[object] = [True, 0.25, False][: len(steps)]
    row = stepped_row(stepped(tmp_path / "a.jsonl", steps, labels), TOKENIZER, report=(report := RowReport()))
    assert row is not None
    (segment,) = row["train"]
    ends = np.flatnonzero(segment.weight)
    assert len(ends) == len(steps) == report.trained_tokens and segment.extras["label"][ends].tolist() == [float(x) for x in labels]  # type: ignore[arg-type]
    said = ["".join(str(TOKENIZER.decode(segment.ids[: end + 1])).split()) for end in ends]
    short = ["".join(str(TOKENIZER.decode(segment.ids[:end])).rstrip("\ufffd").split()) for end in ends]
    for i, (whole, before) in enumerate(zip(said, short, strict=True)):
        upto = "".join("".join(steps[: i + 1]).split())
        assert whole.endswith(upto) and not before.endswith(upto)


def test_an_outcome_is_learned_at_every_token_of_the_answer(tmp_path: Path) -> None:
    rows = [{"prompt": "Is he?", "completion": "yes he is", "label": False}, {"prompt": "what", "chosen": "yes", "rejected": "no"}]
    made = [stepped_row(r, TOKENIZER) for row in rows for r in read(written(tmp_path / "a.jsonl", row), say=lambda _: None)]
    labels = [s.extras["label"] for row in made if row for s in row["train"]]
    assert [set(label.tolist()) for label in labels] == [{0.0}, {1.0}, {0.0}]
    assert all(len(s.extras["label"]) == len(s.ids) and s.weight.sum() > 1 for row in made if row for s in row["train"])


@pytest.mark.parametrize(
    ("steps", "labels", "sentence"),
    [
        (["a", "b"], [True], '"completions" has 2 steps and "labels" 1 labels'),
        (["a", " "], [True, True], "none empty"),
        (["a"], [1.5], r'"labels\[0\]" is 1.5; a step\'s label is true, false or a chance'),
        (["a"], ["good"], r'field "labels\[0\]" must be a number'),
        ([], [], "has 0 steps"),
    ],
)
def test_bad_labels_are_one_sentence(tmp_path: Path, steps: list[str], labels: list[object], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        stepped(tmp_path / "a.jsonl", steps, labels)


def test_rated_answers_are_still_rated(tmp_path: Path) -> None:
    (record,) = read(written(tmp_path / "a.jsonl", {"prompt": "x", "completions": ["a", "b"], "scores": [1, 2]}), say=lambda _: None)
    assert [r.score for r in record.responses] == [1.0, 2.0]


def test_a_class_is_learned_at_the_last_token(tmp_path: Path) -> None:
    rows = [{"text": "the red fox", "label": "animal"}, {"prompt": "an old house", "completion": "thing"}, {"text": "rain", "label": 3}]
    records = [r for row in rows for r in read(written(tmp_path / "a.jsonl", row), say=lambda _: None)]
    names = [class_of(r, "label") for r in records]
    assert names == ["animal", "thing", "3"]
    made = [classed_row(r, TOKENIZER, classes=("animal", "thing"), field="label", report=(report := RowReport())) for r in records]
    assert made[2] is None and report.dropped == {"a class that is not among those to learn": 1}
    for row, label in zip(made[:2], (0.0, 1.0), strict=True):
        assert row is not None
        (segment,) = row["train"]
        assert segment.extras["label"] == label and np.flatnonzero(segment.weight).tolist() == [len(segment.ids) - 1]
    # A prompt ends as it does at inference, where the answer would begin.
    from tempering.data import prompt_ids

    assert made[1] is not None and made[1]["train"][0].ids.tolist() == prompt_ids(TOKENIZER, (Message("user", "an old house"),))
    assert classed_row(records[0], TOKENIZER, classes=("animal",), field="label", max_length=2) is None
    with pytest.raises(DataError, match="has no field 'kind' that says its class"):
        class_of(Record((Message("user", "x"),), (Response((Message("assistant", "a"),)),) * 2, source="f:1"), "kind")
