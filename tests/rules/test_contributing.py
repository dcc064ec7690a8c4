"""The example in CONTRIBUTING.md is taken from the page: it is found as a method, has the values that the page says, and trains."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import ROOT

BLOCKS = re.findall(r"^```python\n(.*?)^```$", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_the_page_has_a_method_its_test_and_a_use() -> None:
    method, test, use = BLOCKS
    assert "class Hinge(Objective)" in method and "def test_" in test and "Hinge(" in use
    code = method.partition('"""\n\n')[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 30, "add a method in one file: keep the example short"


@pytest.fixture
def hinge(tmp_path: Path) -> Iterator[ModuleType]:
    """The page's method as a module, from a file named as the page says."""
    path = tmp_path / "hinge.py"
    path.write_text(BLOCKS[0], encoding="utf-8")
    spec = importlib.util.spec_from_file_location("hinge", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hinge"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["hinge"]


def page(block: str, **names: Any) -> dict[str, Any]:
    """What a block of the page defines. (The page is ours, so it may run.)"""
    exec(compile(block, str(ROOT / "CONTRIBUTING.md"), "exec"), names)
    return names


def test_the_index_finds_the_file(tmp_path: Path) -> None:
    from tempering.index import scan

    folder = tmp_path / "package" / "methods" / "objectives"
    folder.mkdir(parents=True)
    (folder / "hinge.py").write_text(BLOCKS[0], encoding="utf-8")
    (entry,) = scan(tmp_path / "package", tmp_path / "cache.json")
    assert (entry.kind, entry.name, entry.public, entry.arxiv) == ("objective", "hinge", "Hinge", ("2305.10425",))
    assert entry.summary.startswith("Sequence likelihood calibration")


def test_the_values_on_the_page_hold(hinge: ModuleType) -> None:
    defined = page(BLOCKS[1], Hinge=hinge.Hinge)
    tests = [value for name, value in defined.items() if name.startswith("test_")]
    assert len(tests) == 1
    for test in tests:
        test()


def test_the_example_trains(hinge: ModuleType) -> None:
    """Two steps of plain gradient descent, alone and in the page's sum: the loss that is logged is the hand-made one, and it falls."""
    import torch

    from tempering.config import Optimizer, Schedule, Training
    from tempering.data.streams import Shuffled
    from tempering.fit import fit
    from tempering.methods.scopes.full import Full
    from tempering.types import Role
    from tests.toy import toy_llama, toy_rows

    rows = toy_rows(4, ("chosen", "rejected"))

    def summed(part: str, model: Any) -> list[float]:
        """Log-prob of each row's answer, by a plain forward pass over one row at a time."""
        found = []
        for row in rows:
            (segment,) = row[part]
            ids = torch.as_tensor(segment.ids, dtype=torch.long)
            with torch.no_grad():
                logps = torch.log_softmax(model(ids[None]).logits[0, :-1], -1).gather(-1, ids[1:, None])[:, 0]
            found.append(float((logps * torch.as_tensor(segment.weight)[1:]).sum()))
        return found

    objective = page(BLOCKS[2], Hinge=hinge.Hinge)["objective"]
    start = toy_llama()
    chosen, rejected = summed("chosen", start), summed("rejected", start)
    hinges = [max(0.0, 2.0 - c + r) for c, r in zip(chosen, rejected, strict=True)]
    tokens = sum(float(row["chosen"][0].weight.sum()) for row in rows)
    expected = {"alone": sum(hinges) / 4, "sum": sum(hinges) / 4 + 0.5 * -sum(chosen) / tokens}

    for name, wanted in {"alone": hinge.Hinge(margin=2.0), "sum": objective}.items():
        seen: list[dict[str, Any]] = []
        fit(
            {"policy": Role(toy_llama(), Full())},
            wanted,
            Shuffled(rows, 4),
            steps=2,
            optimizer=Optimizer(name="sgd", lr=1e-3),
            schedule=Schedule(name="constant", warmup=0),
            training=Training(micro_tokens=16, precision="fp32"),
            say=lambda line: None,
            on_metrics=lambda metrics, seen=seen: seen.append(dict(metrics)),
        )
        assert seen[0]["loss"] == pytest.approx(expected[name], abs=1e-4)
        assert seen[0]["difference"] == pytest.approx(sum(c - r for c, r in zip(chosen, rejected, strict=True)) / 4, abs=1e-4)
        assert seen[1]["loss"] < seen[0]["loss"]
