"""Every method of the folder streams, found by walking it: its worked cases hold, the seed alone decides, and no record is lost unexplained."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Sequence
from typing import Any

import pytest

from tempering import index
from tempering.cases import RecordCase
from tempering.making import MADE_OF, Maker, Making, spoken
from tempering.types import Message, Record

STREAMS = index.methods("stream")
every_case = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{entry.name}-{i}")
        for entry in STREAMS
        for i, case in enumerate(getattr(importlib.import_module(entry.module), "CASES", ()))
    ],
)


def made(case: RecordCase, records: Sequence[Record] | None = None) -> tuple[list[Record], Making]:
    def ask(prompts: Sequence[tuple[Message, ...]], n: int, temperature: float) -> list[list[str]]:
        found = [list(case.answers[spoken(prompt)]) for prompt in prompts]
        assert all(len(texts) >= n for texts in found), "the case gives too few answers"
        return [texts[:n] for texts in found]

    def judge(name: str, prompts: Sequence[tuple[Message, ...]], answers: Sequence[str]) -> list[float]:
        return [case.marks[text] for text in answers]

    making = Making(case.seed, ask if case.answers else None, judge if case.marks else None, memory=copy.deepcopy(dict(case.memory)))
    return list(case.method(records if records is not None else case.records, making)), making


def view(record: Record) -> Any:
    return record.prompt, record.responses, tuple(sorted(record.better))


@pytest.mark.parametrize("entry", STREAMS, ids=lambda entry: entry.name)
def test_it_is_a_value_with_cases(entry: index.Entry) -> None:
    cls = index.load(entry)
    assert issubclass(cls, Maker) and entry.cases and (entry.catalogue or entry.arxiv) and entry.family in ("lessons", "comparisons", "rounds")
    assert cls().name == entry.name
    assert all(type(case.method) is cls for case in importlib.import_module(entry.module).CASES)


@every_case
def test_its_cases_hold(case: RecordCase) -> None:
    found, making = made(case)
    assert [view(record) for record in found] == [view(record) for record in case.expected]
    assert dict(making.dropped) == dict(case.dropped)
    for record, tags in zip(found, case.tags, strict=bool(case.tags)):
        assert {name: record.tags.get(name) for name in tags} == dict(tags)


@every_case
def test_the_seed_alone_decides(case: RecordCase) -> None:
    assert made(case)[0] == made(case, list(case.records))[0]


@every_case
def test_no_record_is_lost_unexplained(case: RecordCase) -> None:
    found, making = made(case)
    used = {one for record in found for one in record.tags[MADE_OF]}
    assert used.isdisjoint(making.lost) and used | set(making.lost) == {record.id for record in case.records}
    assert sum(making.dropped.values()) == len(making.lost)
    assert len({record.id for record in found}) == len(found), "two made records share an id"


@every_case
def test_pairs_and_answers_are_what_the_recipe_takes(case: RecordCase) -> None:
    family = importlib.import_module(type(case.method).__module__).FAMILY
    for record in made(case)[0]:
        assert record.responses if family == "lessons" else record.better
        assert all(response.messages for response in record.responses)
