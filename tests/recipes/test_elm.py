"""Experts and their library: a prompt of the library finds its own expert, one that is added moves no other, and one that is taken is itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tempering as tp
from tempering import models
from tempering.config import Training
from tempering.data import sft_row
from tempering.errors import UserError
from tempering.merging.library import Library, embed
from tempering.proof.small import tiny
from tempering.recipes.elm import prompts
from tempering.worlds.instructions import Instructions

SMALL: dict[str, Any] = {"model": "builtin:tiny", "steps": 2, "batch_size": 4, "max_test": 4, "keep": "none", "precision": "fp32", "lr": 1e-2}


def written(folder: Path, task: str, count: int = 24) -> str:
    path = folder / f"{task}.jsonl"
    rows = [{"prompt": item["prompt"], "completion": item["answer"]} for item in Instructions(tasks=(task,)).items("train", count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_votes_by_hand() -> None:
    # The mean of the entries is (1, 1): what is left of them points right, up, left and down.
    library = Library({"a": np.array([[3.0, 1.0], [1.0, 5.0]]), "b": np.array([[-1.0, 1.0]])}).add("c", np.array([[1.0, -3.0]]))
    asked = np.array([[9.0, 1.5], [1.0, 1.1], [-4.0, 1.0], [1.5, -1.0], [0.9, -1.0]])
    assert library.votes(asked) == {"a": 2, "b": 1, "c": 2}
    assert library.route(asked) == ["a"] and library.route(asked, 3) == ["a", "c", "b"]
    # What is not centred would find another: (1, 1.1) is nearest to (1, 5) only beyond the mean.
    assert library.votes(np.array([[1.0, 0.9]])) == {"a": 0, "b": 0, "c": 1}


def test_entries_find_their_own_expert_and_each_prompt_its_place() -> None:
    policy, how = tiny(), Training(precision="fp32")
    asked = [[item["prompt"] for item in Instructions(tasks=(task,)).items("train", 6)] for task in ("first", "count")]
    ids = [[policy.tokenizer(text)["input_ids"] for text in of] for of in asked]
    library = Library({"first": embed(policy, ids[0], how), "count": embed(policy, ids[1], how)})
    for name, of in zip(("first", "count"), ids, strict=True):
        assert library.votes(embed(policy, of, how))[name] == 6
    for one, vector in zip(ids[0], library.entries["first"], strict=True):
        with torch.no_grad():
            states = policy.model.model(input_ids=torch.tensor([one])).last_hidden_state[0]  # type: ignore[operator, union-attr]
        np.testing.assert_allclose(vector, states[1:].mean(0).numpy(), atol=1e-5)


def test_prompts_are_spread_over_the_rows() -> None:
    policy = tiny()
    rows: Any = [sft_row(record, policy.tokenizer) for record in Instructions(tasks=("first",)).records("train", 6)]
    whole = [segment.ids[: int(segment.weight.argmax())].tolist() for row in rows for segment in row["train"]]
    assert prompts(rows, 3) == whole[::2] and prompts(rows, 99) == whole


def test_a_run_takes_the_expert_as_it_is_and_adding_one_moves_no_other(tmp_path: Path) -> None:
    first, count = written(tmp_path, "first"), written(tmp_path, "count")
    new = written(tmp_path, "count", 40)
    tp.run("elm", out=tmp_path / "one", again=True, tasks=(first,), data=new, **SMALL)
    report = tp.run("elm", out=tmp_path / "both", again=True, tasks=(first, count), data=new, **SMALL)
    assert report.ledger.probes
    found = json.loads((tmp_path / "both" / "experts.json").read_text())
    assert found == {"votes": {first: 0, count: 32}, "chosen": [count]}
    taken, own = (adapter(tmp_path / "both" / name) for name in ("model", "expert-2/model"))
    assert taken.keys() == own.keys() and all(torch.equal(x, own[name]) for name, x in taken.items())
    alone, beside = adapter(tmp_path / "one" / "model"), adapter(tmp_path / "both" / "expert-1" / "model")
    assert all(torch.equal(x, beside[name]) for name, x in alone.items())
    assert any(not torch.equal(x, own[name]) for name, x in beside.items())


def test_two_experts_are_averaged(tmp_path: Path) -> None:
    tasks = tuple(written(tmp_path, task) for task in ("first", "count"))
    tp.run("elm", out=tmp_path / "run", again=True, tasks=tasks, data=tasks[0], merge=2, scope="full", **SMALL)
    one, other, made = (
        dict(models.load(str(tmp_path / "run" / name), say=lambda _: None).model.named_parameters())
        for name in ("expert-1/model", "expert-2/model", "model")
    )
    for name, p in made.items():
        torch.testing.assert_close(p, (one[name] + other[name]) / 2, rtol=1e-6, atol=1e-7)


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("how", "sentence"), [({}, "elm: no tasks"), ({"tasks": ("a.jsonl",), "merge": 2}, "--merge 2: there are 1 tasks, so no more")]
)
def test_what_cannot_be_is_refused(how: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        tp.run("elm", out=tmp_path / "run", again=True, **SMALL, **how)
