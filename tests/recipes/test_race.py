"""Races: how data are cut, what a budget is, the statistics of lanes, and one whole race of two losses."""

from __future__ import annotations

import importlib
import itertools
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tempering.cli.app import run_command
from tempering.config import Training
from tempering.errors import Interrupted, UserError
from tempering.ledger_types import Ledger
from tempering.race.course import Clock, Course, Done, Leg, chosen
from tempering.race.page import notes, render
from tempering.race.picture import picture
from tempering.race.plan import Plan, cut, family_of, rows_of, tokens_of, world_of
from tempering.race.result import Race, result
from tempering.report.scatter import LABEL
from tempering.report.scatter import _apart as apart
from tempering.stats import Interval, mean_interval
from tempering.types import Message, Record, Response


def pair(i: int, prompt: str = "") -> Record:
    replies = tuple(Response((Message("assistant", text),)) for text in (f"good {i}", f"bad {i}"))
    return Record((Message("user", prompt or f"prompt {i}"),), replies, ((0, 1),), source=f"rows:{i}")


@pytest.mark.parametrize(
    ("text", "count"), [("2000000tokens", 2_000_000), ("2M", 2_000_000), ("1.5k tokens", 1500), ("40_000", 40_000), ("2,000 tokens", 2000)]
)
def test_budgets(text: str, count: int) -> None:
    assert tokens_of(text) == count


@pytest.mark.parametrize("text", ["", "many", "2 hours", "-5", "0", "0.2"])
def test_budgets_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="number of tokens"):
        tokens_of(text)


def test_methods_of_one_family() -> None:
    assert family_of(["DPO", "ipo", "robust-dpo"]) == ("pairs", ("dpo", "ipo", "robust_dpo"))
    for names, told in (
        (["dpo"], "at least two"),
        (["dpo", "DPO"], "given twice"),
        (["dpo", "kto"], "kto is of unpaired"),
        (["dpo", "ipp"], "did you mean"),
    ):
        with pytest.raises(UserError, match=told):
            family_of(names)


def test_a_prompt_stands_on_one_side_whatever_the_order() -> None:
    records = [pair(i, f"prompt {i % 50}") for i in range(100)]
    sides = cut(records, ("valid", "test"))
    keys = {name: {r.prompt for r in rows} for name, rows in sides.items()}
    assert {name: len(k) for name, k in keys.items()} == {"valid": 5, "test": 5, "train": 40}
    assert not keys["valid"] & keys["test"] and not keys["train"] & (keys["valid"] | keys["test"])
    assert {n: {r.source for r in rows} for n, rows in cut(records[::-1], ("valid", "test")).items()} == {
        n: {r.source for r in rows} for n, rows in sides.items()
    }
    with pytest.raises(UserError, match="2 different prompts"):
        cut([pair(0), pair(1)], ("valid", "test"))
    assert {n: len({r.prompt for r in rows}) for n, rows in cut([pair(i) for i in range(10)], ("valid",), 0.3).items()} == {"valid": 3, "train": 7}


def test_rows_read_back_as_they_were(tmp_path: Path) -> None:
    from tempering.data import read

    scored = replace(pair(1), responses=tuple(replace(r, score=s) for r, s in zip(pair(1).responses, (3.0, 1.0), strict=True)))
    (row,) = rows_of(scored, "pairs")
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (back,) = read(str(path))
    assert (back.prompt, back.responses, back.better) == (scored.prompt, scored.responses, scored.better)
    with pytest.raises(UserError, match="rows:1: rows with tools"):
        list(rows_of(replace(pair(1), tools=({"name": "f"},)), "pairs"))


def test_worlds_by_name() -> None:
    assert (world_of("world:preferences", 3).seed, world_of("world:preferences:0.2", 0).noise) == (3, 0.2)
    for bad in ("world:people", "world:preferences:much", "world:preferences:0.2:1"):
        with pytest.raises(UserError, match="world:preferences"):
            world_of(bad, 0)


# ------------------------------------------------------------------------------------------------------------------------------------- results


def plan(methods: tuple[str, ...] = ("dpo", "ipo", "<b>simpo"), seeds: tuple[int, ...] = (0, 1, 2), **more: Any) -> Plan:
    return Plan(methods, 1000, (1e-4, 1e-3), seeds, "world:preferences", None, {"model": "m", "training": Training()}, **more)


def done(leg: Leg, gain: float, keep: float = 0.9) -> Done:
    level = lambda v: Interval(v, v - 0.1, v + 0.1, 0.95, "items")  # noqa: E731
    ledger = Ledger("a", "b", 0.05, 1, (), gain=level(gain), gain_on="held_pairs", keep=level(keep), cost={"tokens": 1000.0, "seconds": 2.0})
    return Done(leg, Path(f"{leg.method}-{leg.seed}"), ledger, False)


GAINS = {"dpo": (0.1, 0.2, 0.3), "ipo": (0.2, 0.3, 0.5), "<b>simpo": (0.0, 0.1, 0.2)}


def raced() -> Race:
    tuning = [done(Leg(m, r, 1000, True), 0.1 if r == 1e-4 else 0.2) for m in GAINS for r in (1e-4, 1e-3)]
    final = [done(Leg(m, 1e-3, s, False), g) for m, gains in GAINS.items() for s, g in enumerate(gains)]
    return result(plan(), "pairs", 10, [*tuning, *final])


def test_lanes_are_paired_by_seed() -> None:
    race = raced()
    first, second, third = race.lanes
    assert first.against is None and race.over == "seeds"
    assert second.gain.point == pytest.approx(1 / 3)
    expected = mean_interval([0.1, 0.1, 0.2], method="t")
    assert second.against is not None and (second.against.low, second.against.high) == pytest.approx((expected.low, expected.high))
    assert third.against is not None and third.against.point == pytest.approx(-0.1)
    assert second.p_adjusted == pytest.approx(min(1.0, 2 * min(second.p, third.p)) if second.p < third.p else max(second.p, 2 * third.p))  # type: ignore[operator,type-var]
    assert first.edge == "highest" and first.tried == ((1e-4, 0.1), (1e-3, 0.2))
    told = json.loads(race.to_json())
    assert told["plan"]["seeds"] == [0, 1, 2] and told["lanes"][1]["finishes"][2]["gain"] == 0.5


def test_the_rate_is_the_best_on_validation_and_of_equals_the_smallest() -> None:
    legs = [done(Leg("dpo", r, 1000, True), g) for r, g in ((1e-4, 0.2), (1e-3, 0.2))]
    legs += [done(Leg("ipo", r, 1000, True), g) for r, g in ((1e-4, 0.1), (1e-3, 0.3))]
    legs += [done(Leg("ipo", 1e-4, 0, False), 9.0)]  # what counts has no say
    assert chosen(legs, plan(("dpo", "ipo"))) == {"dpo": 1e-4, "ipo": 1e-3}


def test_one_seed_is_compared_by_items(tmp_path: Path) -> None:
    legs = []
    for name, scores in (("dpo", (1, 1, 0, 0)), ("ipo", (1, 1, 1, 0))):
        items = [{"id": str(i), "score": float(s)} for i, s in enumerate(scores)]
        (tmp_path / name).mkdir()
        (tmp_path / name / "after.scores.json").write_text(
            json.dumps({"probes": [{"probe": "held_pairs", "side": "target", "kind": "binary", "items": items}]})
        )
        legs.append(replace(done(Leg(name, 1e-4, 0, False), 0.0), folder=tmp_path / name))
    race = result(plan(("dpo", "ipo"), (0,)), "pairs", 10, legs)
    assert race.over == "items" and race.lanes[1].against is not None
    assert race.lanes[1].against.point == 0.25 and race.lanes[1].p == 1.0
    assert any("say nothing about other seeds" in note for note in notes(race))


def test_the_page_escapes_and_says_what_the_intervals_are() -> None:
    race = raced()
    page = render(race)
    assert "<b>simpo" not in page and "&lt;b&gt;simpo" in page and "http" not in page.replace("http-equiv", "")
    assert "t intervals over 3 paired seeds, each with data of its own" in page and "highest" in page
    assert page.count("<svg") == 1 and str(picture(race, alone=True)).startswith('<svg class="race" xmlns=')
    uneven = replace(race, lanes=(race.lanes[0], replace(race.lanes[1], finishes=tuple(replace(f, tokens=1100.0) for f in race.lanes[1].finishes))))
    assert any("differ by more than 1%" in note for note in notes(uneven)) and not any("1%" in note for note in notes(race))


def test_names_in_the_picture_do_not_overlap() -> None:
    found = apart([100.0, 101.0, 99.0, 373.9, 374.0])
    assert all(b - a >= LABEL - 1e-9 for a, b in pairwise(found)) and found == sorted(found)
    assert apart([10.0, 200.0]) == [10.0, 200.0]


def test_the_clock_counts_by_kind() -> None:
    clock = Clock(2, 3)
    assert clock.estimate() is None
    clock.note(True, 4.0)
    assert clock.estimate() == 4 + 3 * 4
    clock.note(True, None)
    clock.note(False, 10.0)
    assert clock.estimate() == 20


# ----------------------------------------------------------------------------------------------------------------------------------- whole races


@pytest.fixture
def race_words(tiny_folder: Path, tmp_path: Path) -> list[str]:
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Say hello {i}", "chosen": f"Hello, dear {i}", "rejected": f"no {i}"} for i in range(30)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["race", "dpo", "ipo", "--model", str(tiny_folder), "--data", str(data), "--keep", "none", "--set", "scope=full", "--quick"]
    return [*words, "--rates", "1e-3", "--budget", "2k", "--out", str(tmp_path / "race")]


def test_a_whole_race_and_the_same_again(race_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(race_words) == 0
    out, folder = capsys.readouterr().out, tmp_path / "race"
    told = json.loads((folder / "race.json").read_text())
    assert [lane["method"] for lane in told["lanes"]] == ["dpo", "ipo"] and told["steps"] == 2 and told["over"] == "items"
    tokens = [f["tokens"] for lane in told["lanes"] for f in lane["finishes"]]
    assert len(tokens) == 2 and tokens[0] == tokens[1] > 0  # the same rows in the same order
    assert (folder / "race.html").is_file() and (folder / "race.svg").is_file() and "left" in out and "quick race" in out
    before = {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*")}
    assert run_command(race_words) == 0
    assert capsys.readouterr().out.count("kept from before") == 2
    assert {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*")} == before
    assert json.loads((folder / "race.json").read_text())["lanes"] == told["lanes"]


def course(race_words: list[str], folder: Path, shared: bool = True) -> Course:
    """The race of these words, with its legs to be run one by one."""
    from tempering.cli.race import _values
    from tempering.race.plan import prepare

    model, data = (race_words[race_words.index(name) + 1] for name in ("--model", "--data"))
    values = _values("pairs", model, ["training.batch_size=4", "training.precision=fp32", "scope=lora", "r=2"])
    asked = Plan(("dpo", "simpo"), 1000, (1e-2,), (0,), data, None, values, keep="none", gain="margin")
    made = Course(asked, "pairs", prepare(asked, "pairs", folder / "data"), folder)
    made.steps = 2
    if not shared:
        made.start = None  # type: ignore[assignment]
    return made


def numbers(found: Done) -> Any:
    """All that a leg measured and saved, without its seconds."""
    scores = [json.loads((found.folder / f"{name}.scores.json").read_text())["probes"] for name in ("before", "after")]
    lines = [json.loads(line) for line in (found.folder / "metrics.jsonl").read_text().splitlines()]
    weights = (found.folder / "model" / "adapter_model.safetensors").read_bytes()
    return scores, [(line["loss"], line["grad_norm"]) for line in lines], weights


def test_legs_that_share_a_loaded_model_come_to_the_same_as_those_that_load_their_own(race_words: list[str], tmp_path: Path) -> None:
    legs = [Leg(method, 1e-2, 0, False) for method in ("dpo", "simpo")]
    together = course(race_words, tmp_path / "shared")
    one = [numbers(together.run(leg)) for leg in legs]
    alone = [numbers(course(race_words, tmp_path / f"own-{leg.method}", shared=False).run(leg)) for leg in legs]
    assert one == alone and one[0][0][0] == one[1][0][0] and one[0][0][1] != one[1][0][1]


def test_a_race_that_goes_on_measures_the_start_no_more(race_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(policy: Any, *given: Any, **how: Any) -> Any:
        seen.append(policy.name)
        return real(policy, *given, **how)

    measuring = importlib.import_module("tempering.measure")
    real, seen = measuring.measure, list[str]()
    monkeypatch.setattr(measuring, "measure", counted)
    monkeypatch.setenv("TEMPERING_HOME", str(tmp_path / "home"))
    for number, method in ((2, "dpo"), (3, "simpo")):  # Another process would have another course.
        course(race_words, tmp_path / "race").run(Leg(method, 1e-2, 0, False))
        assert len(seen) == number


@pytest.mark.parametrize("call", [1, 2])
def test_a_leg_that_was_stopped_goes_on_to_the_same(call: int, race_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped while it measured before, or after."""
    measuring = importlib.import_module("tempering.measure")
    real, calls = measuring.measure, itertools.count(1)

    def stopped(*given: Any, **how: Any) -> Any:
        if next(calls) == call:
            raise Interrupted("stopped")
        return real(*given, **how)

    monkeypatch.setenv("TEMPERING_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(measuring, "measure", stopped)
    leg = Leg("dpo", 1e-2, 0, False)
    with pytest.raises(Interrupted):
        course(race_words, tmp_path / "race").run(leg)
    found = course(race_words, tmp_path / "race").run(leg)
    assert not found.reused and numbers(found) == numbers(course(race_words, tmp_path / "whole").run(leg))


def test_pairs_scored_as_in_training_are_those_scored_alone(race_words: list[str], tmp_path: Path) -> None:
    from tempering import models
    from tempering.data import pair_row, read
    from tempering.methods.probes.held_pairs import HeldPairs

    policy = models.load(race_words[race_words.index("--model") + 1], say=lambda _: None)
    made = (pair_row(record, policy.tokenizer, max_length=256) for record in read(race_words[race_words.index("--data") + 1], say=lambda _: None))
    rows = [row for row in made if row is not None]
    alone, together = (HeldPairs(rows=rows, training=how)(policy) for how in (None, Training(precision="fp32")))
    for a, b in zip(alone.items, together.items, strict=True):
        assert (a.prompt, a.expected) == (b.prompt, b.expected) and a.extra == pytest.approx(b.extra, abs=2e-5)


def test_the_margin_is_a_gain_too(race_words: list[str], tmp_path: Path) -> None:
    assert run_command([*race_words, "--gain", "margin"]) == 0
    told = json.loads((tmp_path / "race" / "race.json").read_text())
    lane, folder = told["lanes"][1], tmp_path / "race"
    before, after = (
        {i["id"]: i["extra"]["margin_mean"] for p in json.loads((Path(lane["finishes"][0]["folder"]) / f"{n}.scores.json").read_text())["probes"]
         for i in p["items"]}
        for n in ("before", "after")
    )  # fmt: skip
    assert told["gain_on"] == "held_pairs margin" and lane["gain"]["point"] == pytest.approx(sum(after[i] - before[i] for i in before) / len(before))
    assert all("nats a token" in (folder / name).read_text() for name in ("race.html", "race.svg"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--budget", "lots"], "expected a number of tokens"),
        (["--budget", "3"], "give more tokens"),
        (["--rates", "fast"], "expected learning rates"),
        (["--rates", "1e-3,1e-3"], "different numbers"),
        (["--set", "scope"], "expected NAME=VALUE"),
        (["--set", "loss.beta=1"], "a race sets this itself"),
        (["--set", "scop=full"], "scop"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--data", "world:people"], "known is world:preferences"),
        (["--seeds", "0"], "1 or more"),
    ],
)
def test_wrong_words_are_one_sentence(race_words: list[str], words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    at = race_words.index(words[0]) if words[0] in race_words and words[0] != "--set" else None
    line = race_words if at is None else race_words[:at] + race_words[at + 2 :]
    assert run_command([*line, *words]) == 2
    assert told in capsys.readouterr().err
