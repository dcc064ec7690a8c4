"""Controllers trained by one reward each: no weight is the start model, and the measured reward is the weighted sum."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tempering as tp
from tempering import models
from tempering.errors import UserError
from tempering.recipes.ldc import controllers
from tempering.sample import sample

SMALL: dict[str, Any] = {"model": "builtin:tiny", "steps": 2, "batch_size": 2, "samples": 2, "max_new_tokens": 8, "max_test": 4, "keep": "none"}
SMALL |= {"precision": "fp32", "lr": 1e-3, "tasks": 6, "env.data": "builtin:demo"}
DIMENSIONS = ["overlong(longest=60; buffer=60)", "similarity"]


def test_each_dimension_has_its_controller_and_weights_of_zero_are_the_start(tmp_path: Path) -> None:
    out = tmp_path / "run"
    tp.run("ldc", out=out, again=True, dimensions=DIMENSIONS, weights=[[0.0, 0.0]], **SMALL)
    assert [len((out / f"dimension_{k}" / "metrics.jsonl").read_text().splitlines()) for k in (1, 2)] == [2, 2]
    made, start = models.load(str(out / "model"), say=lambda _: None), models.load("builtin:tiny", say=lambda _: None)
    assert made.decode[0].roles == ("dimension_1", "dimension_2")
    own = [dict(models.load(str(out / f"dimension_{k}" / "model"), say=lambda _: None).model.named_parameters()) for k in (1, 2)]
    assert any(not torch.equal(x, own[1][name]) for name, x in own[0].items())
    assert all(torch.equal(x, own[0][name]) for name, x in made.roles["dimension_1"].named_parameters())
    prompts, how = [[5, 9, 7]], {"n": 2, "max_new_tokens": 6, "temperature": 1.0, "seed": 0}
    written = [[e.ids for e in sample(policy, prompts, **how)[0]] for policy in (made, start)]  # type: ignore[arg-type]
    assert written[0] == written[1]
    scores = [json.loads((out / f"{name}.scores.json").read_text())["probes"][0]["items"] for name in ("before", "after")]
    assert scores[0] == scores[1] and {item["score"] for item in scores[0]} == {0.0}


def test_sentences_are_counted_from_where_the_answer_begins() -> None:
    policy = models.load("builtin:tiny", say=lambda _: None)
    by = controllers(policy, ("one",), ((1.0,), (0.0,)))
    prompt = policy.tokenizer.apply_chat_template([{"role": "user", "content": "Is it. Or not?"}], add_generation_prompt=True, return_dict=False)
    first, second = (policy.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Yes", "Yes. No"))
    assert [by.weigh(torch.tensor([[*prompt, *said]]))[0].tolist() for said in (first, second)] == [[1.0], [0.0]]


def test_weights_are_for_dimensions(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are 2 dimensions"):
        tp.run("ldc", out=tmp_path / "run", dimensions=DIMENSIONS, weights=[[1.0]], **SMALL)
