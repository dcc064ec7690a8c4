"""Three stages in one language: which records each takes, that no two share a prompt, and that a policy that never moves is the fine-tuned model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tempering as tp
from tempering import models
from tempering.errors import UserError
from tempering.recipes.okapi import _apart, spoken
from tempering.types import Message, Record

SMALL: dict[str, Any] = {"model": "builtin:tiny", "lesson_steps": 2, "reward_steps": 2, "steps": 2, "batch_size": 2, "samples": 2}
SMALL |= {"max_new_tokens": 8, "max_test": 4, "keep": "none", "precision": "fp32"}


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Demonstrations and ranked answers in two languages."""
    both = [(language, i) for i in range(16) for language in ("en", "vi")]
    demos = [{"prompt": f"{language} ask {i}", "completion": f"{language} say {i}", "language": language} for language, i in both]
    pairs = [{"prompt": f"{language} rank {i}", "chosen": "yes", "rejected": "no", "language": language} for language, i in both]
    return {"data": lines(tmp_path / "demos.jsonl", demos), "ranked": lines(tmp_path / "pairs.jsonl", pairs)}


def test_every_stage_takes_its_own_language_and_a_rate_of_almost_nothing_is_the_fine_tuned_model(files: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    tp.run("okapi", out=out, again=True, language="vi", lesson_lr=1e-3, lr=1e-12, critic_lr=1e-12, **files, **SMALL)
    told = json.loads((out / "languages.json").read_text())
    assert told["language"] == "vi" and all(set(stage) == {"vi"} for stage in told["records"].values())
    assert told["records"]["reward"] == {"vi": 16} and told["records"]["sft"]["vi"] + told["records"]["rl"]["vi"] < 16
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    start, before, last = (
        models.load(place, say=lambda _: None).model.state_dict() for place in ("builtin:tiny", str(out / "sft" / "model"), str(out / "model"))
    )
    assert max((before[name] - weight).abs().max() for name, weight in start.items()) > 1e-4
    assert all((before[name] - weight).abs().max() < 1e-9 for name, weight in last.items())
    assert hasattr(models.load(str(out / "reward" / "model"), say=lambda _: None).model, "value_head")
    scores = [json.loads((out / f"{name}.scores.json").read_text())["probes"][0]["items"] for name in ("sft", "after")]
    assert [item["score"] for item in scores[0]] == pytest.approx([item["score"] for item in scores[1]], abs=1e-5)


def test_a_language_that_nobody_speaks_is_refused(files: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no record is in language 'de'; there are en, vi"):
        tp.run("okapi", out=tmp_path / "run", language="de", **files, **SMALL)
    silent = lines(tmp_path / "silent.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    with pytest.raises(UserError, match='has no field "language"'):
        tp.run("okapi", out=tmp_path / "other", language="en", **{**files, "ranked": silent}, **SMALL)


def asked(*words: str) -> list[Record]:
    return [Record((Message("user", word),), (), id=str(i), tags={"language": word[0]}) for i, word in enumerate(words)]


def test_no_two_stages_share_a_prompt() -> None:
    found = _apart({"sft": asked("a1", "a2"), "reward": asked("a2", "a3", "a9"), "rl": asked("a1", "a3", "a4")}, asked("a9"))
    assert {stage: [record.prompt[0].content for record in records] for stage, records in found.items()} == {
        "sft": ["a1", "a2"], "reward": ["a3"], "rl": ["a4"],
    }  # fmt: skip
    with pytest.raises(UserError, match="stage rl: all of its 1 prompts are in the test or in an earlier stage"):
        _apart({"sft": asked("a1"), "rl": asked("a1")}, ())


def test_languages_divide_the_records() -> None:
    every = asked("a1", "b1", "a2")
    one, other = (spoken(every, language, "here") for language in "ab")
    assert one == [every[0], every[2]] and other == [every[1]] and spoken(every, "", "here") == every
