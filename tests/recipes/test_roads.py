"""Two roads from the same pairs: with rates of almost nothing both end at the start; what is told of them; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tempering as tp
from tempering import models
from tempering.errors import UserError
from tempering.recipes.roads import told
from tempering.types import ItemScore, ProbeScores, Scores

SMALL: dict[str, Any] = {"model": "builtin:tiny", "steps": 2, "reward_steps": 2, "batch_size": 2, "samples": 2, "max_new_tokens": 8, "max_test": 4}
SMALL |= {"keep": "none", "precision": "fp32", "gold": "overlong(longest=40; buffer=40)"}


def test_both_roads_end_at_the_start_where_nothing_moves(tmp_path: Path) -> None:
    out = tmp_path / "run"
    tp.run("roads", out=out, again=True, lr=1e-12, reward_lr=1e-3, **SMALL)
    start, offline, online = (
        models.load(place, say=lambda _: None).model.state_dict() for place in ("builtin:tiny", str(out / "offline" / "model"), str(out / "model"))
    )
    for name, weight in start.items():
        assert (offline[name] - weight).abs().max() < 1e-9 and (online[name] - weight).abs().max() < 1e-9
    assert hasattr(models.load(str(out / "reward" / "model"), say=lambda _: None).model, "value_head")
    found = json.loads((out / "roads.json").read_text())
    assert list(found) == ["by the fitted reward", "by overlong(longest=40; buffer=40)"]
    assert -1 < found["by overlong(longest=40; buffer=40)"]["start"] < 0
    for one in found.values():
        assert one["start"] == pytest.approx(one["offline"], abs=1e-5) and one["online - offline"] == pytest.approx(0, abs=1e-5)
        assert one["prompts"] == 4


def scores(*worth: float) -> Scores:
    items = tuple(ItemScore(str(i), score) for i, score in enumerate(worth))
    return Scores("m", (ProbeScores("gold", "reward", "continuous", True, items, "target"),))


def test_the_difference_is_paired() -> None:
    """Worths of 1, 2, 3 and 2, 4, 6: the differences are 1, 2, 3."""
    (one,) = told(scores(0, 0, 0), scores(1, 2, 3), scores(2, 4, 6)).values()
    assert (one["start"], one["offline"], one["online"], one["online - offline"], one["prompts"]) == (0, 2, 4, 2, 3)
    assert one["interval"][0] < 2 < one["interval"][1]


@pytest.mark.parametrize(
    ("more", "says"),
    [({"gold": "exact_anser"}, "--gold: there is no reward 'exact_anser'; did you mean 'exact_answer'"), ({"steps": 0}, "steps")],
)
def test_wrong_input(more: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        tp.run("roads", out=tmp_path / "run", **{**SMALL, **more})
