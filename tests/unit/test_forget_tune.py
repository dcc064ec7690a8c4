"""Looks at a training, and the choice of rate and step that is made of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tempering.errors import UserError
from tempering.forgetting import looks, tune
from tempering.forgetting.looks import Counted, Look, Watch, seen
from tempering.forgetting.tune import Seen
from tempering.methods.probes._attack import KEPT
from tempering.types import ItemScore, ProbeScores, Scores


def attack(name: str, kept: list[int]) -> ProbeScores:
    return ProbeScores(name, KEPT, "binary", True, tuple(ItemScore(f"s{i}", float(k)) for i, k in enumerate(kept)), "target")


def loss(*nll: float) -> ProbeScores:
    return ProbeScores("held_loss", "nll per token", "continuous", False, tuple(ItemScore(f"r{i}", v) for i, v in enumerate(nll)), "keep")


def scores(*probes: ProbeScores) -> Scores:
    return Scores("m", probes)


BEFORE = scores(attack("asked", [0, 0, 0, 0]), attack("begun", [0, 0, 0, 0]), loss(1.0, 2.0))


def test_a_look_is_the_strongest_attack_less_the_oracle_and_the_change_of_the_retain_loss() -> None:
    now = scores(attack("asked", [1, 1, 1, 0]), attack("begun", [1, 1, 0, 0]), loss(1.5, 2.1))
    assert seen(5, 70, now, BEFORE, None) == Look(5, 70, "begun", 0.5, math.exp((1.0 + 2.0) / 2 - (1.5 + 2.1) / 2))
    never = scores(attack("asked", [1, 1, 1, 1]), attack("begun", [1, 1, 0, 0]), loss(1.0, 2.0))
    assert seen(5, 70, now, BEFORE, never) == Look(5, 70, "asked", 0.25, math.exp((1.0 + 2.0) / 2 - (1.5 + 2.1) / 2))
    assert seen(1, 1, scores(attack("asked", [1, 1]), loss(0.0, 0.0)), BEFORE, None).kept == 1.0


class Batches:
    """A stream of steps with 3 + 4 tokens."""

    taken = 0

    def next(self, run: Any) -> dict[str, Any]:
        self.taken += 1
        return {"forget": SimpleNamespace(num_tokens=3), "retain": SimpleNamespace(num_tokens=4)}

    def state(self) -> dict[str, Any]:
        return {"taken": self.taken}

    def load(self, state: Any) -> None:
        self.taken = state["taken"]


def test_a_path_is_written_gone_on_with_and_ended_by_tokens(tmp_path: Path) -> None:
    stream, live = Counted(Batches()), {"policy": SimpleNamespace(model=None, handle=None)}
    probes: Any = [lambda policy: attack("asked", [1, 0]), lambda policy: loss(1.0, 2.0)]
    watch = Watch(tmp_path / looks.FILE, probes, BEFORE, None, stream, None, 14)
    stream.next(None)  # type: ignore[arg-type]
    assert watch(live) == ""
    position = json.loads(json.dumps(stream.state()))
    stream.next(None)  # type: ignore[arg-type]
    assert watch(live) == "trained on 14 of 14 tokens"
    first = looks.read(tmp_path / looks.FILE)
    assert [(look.step, look.tokens, look.out, look.kept) for look in first] == [(0, 0, 1.0, 1.0), (1, 7, 0.5, 1.0), (2, 14, 0.5, 1.0)]
    # A run that was killed after step 1 looks at step 2 again, and not twice.
    again = Counted(Batches())
    again.load(position)
    again.next(None)  # type: ignore[arg-type]
    assert Watch(tmp_path / looks.FILE, probes, BEFORE, None, again, None, 14)(live) and looks.read(tmp_path / looks.FILE) == first
    rule: Any = lambda roles: "the rule holds"  # noqa: E731
    assert Watch(tmp_path / "other.json", probes, BEFORE, None, again, None, None, rule)(live) == "the rule holds"


def at(step: int, out: float, kept: float, method: str = "npo", rate: float = 1e-3) -> Seen:
    return Seen(method, rate, Look(step, 10 * step, "asked", out, kept))


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ([at(1, 0.9, 1.0), at(2, 0.5, 0.95), at(3, 0.0, 0.6)], 1),  # the third keeps too little
        ([at(1, 0.5, 0.91), at(2, 0.5, 0.95)], 1),  # of equals the one that keeps most
        ([at(2, 0.5, 0.95), at(1, 0.5, 0.95)], 1),  # and then the earlier
        ([at(1, 0.9, 0.5), at(2, 0.5, 0.7), at(3, 0.0, 0.6)], 1),  # none keeps enough
        ([at(1, 0.2, 0.9), at(2, 0.0, 0.8999)], 0),  # the floor itself is enough
    ],
)
def test_the_rule_of_choice(found: list[Seen], wanted: int) -> None:
    assert tune.chosen(found, 0.9) is found[wanted]


def test_the_front_holds_what_no_other_beats() -> None:
    found = [at(1, 0.9, 1.0), at(2, 0.95, 0.9), at(3, 0.5, 0.8), at(4, 0.5, 0.7), at(5, 0.1, 0.2)]
    assert tune.front(found) == [found[0], found[2], found[4]]
    drawn = tune.picture(found, [found[2]], oracle=True)
    assert drawn.count('class="small"') == 4 and drawn.count("polyline") == 1 and ">oracle<" in drawn and "npo 0.001, step 3" in drawn


def test_a_found_run_stops_where_it_was_looked_at() -> None:
    from tempering.config import Optimizer

    values = tune.stopped({"optimizer": Optimizer(lr=1.0), "steps": 9}, tune.way_of("npo", None), at(15, 0.1, 0.9))
    assert values["method"] == tune.way_of("npo", "nll") and values["optimizer"].lr == 1e-3 and values["steps"] == 9
    assert (values["looks"].look_every, values["looks"].look_tokens) == (15, 150)
    assert all(word in tune.rule(0.9, 12_000) for word in ("12,000 tokens", "90%"))


def test_what_runs_share_is_measured_in_the_first(tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.mkdir()
    (first / "a.json").write_text("1")
    tune.measured_before(None, tmp_path / "alone", ["a.json"])
    assert not (tmp_path / "alone").exists()
    tune.measured_before(first, tmp_path / "second", ["a.json", "b.json"])
    assert [p.name for p in (tmp_path / "second").iterdir()] == ["a.json"], "what the first has not is left to be measured"
    (first / "b.json").write_text("2")
    tune.measured_before(first, tmp_path / "second", ["a.json", "b.json"])
    assert len(list((tmp_path / "second").iterdir())) == 1, "a run that has begun is left alone"


def test_a_retain_term_goes_with_every_method_that_takes_one() -> None:
    assert [tune.way_of("gradient_ascent", term).retain_loss for term in (None, "nll", "kl")] == ["none", "nll", "kl"]
    with pytest.raises(UserError, match="--retain-loss: expected none, nll or kl, got 'l2'"):
        tune.way_of("npo", "l2")
