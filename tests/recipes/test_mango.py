"""`temper run mango`: two trainings one after the other, a plain larger model at the end, and a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tempering as tp
from tempering import models
from tempering.cli.values import Signature
from tempering.errors import UserError
from tempering.index import load_recipe
from tempering.planning.rehearse import rehearse

SMALL: dict[str, Any] = {"model": "builtin:tiny", "core_steps": 2, "steps": 2, "batch_size": 4, "max_test": 4, "keep": "none", "precision": "fp32"}


def test_a_larger_model_is_written_and_opens_as_a_plain_one(tmp_path: Path) -> None:
    report = tp.run("mango", **SMALL, layers=7, limit=30, out=tmp_path / "run", again=True)
    made = models.load(str(tmp_path / "run" / "model"), say=lambda _: None).model
    assert made.config.num_hidden_layers == 7 and made.config.hidden_size == 128
    assert not any("parametrizations" in name or "cores" in name for name in made.state_dict())
    assert (tmp_path / "run" / "cores" / "metrics.jsonl").read_text().count("\n") == 2 and report is not None


def test_a_plan_is_of_the_larger_model() -> None:
    signature = Signature(load_recipe("mango"), "mango")
    found = rehearse(load_recipe("mango"), signature.resolve(signature.from_python({**SMALL, "wider": 2})), lambda _: None)
    assert found.work.config.hidden_size == 256 and found.work.config.num_hidden_layers == 5


def test_the_size_that_is_there_already_is_refused() -> None:
    with pytest.raises(UserError, match="--wider 1 --layers 5: that is the size that builtin:tiny has"):
        tp.run("mango", **SMALL, layers=5)
