"""The arithmetic of sharded runs: sizes of real models, what is cut and what is not, and a page that is up to date."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tempering.distributed.arithmetic import Shape, need
from tests.toy import toy_llama

PATH = Path(__file__).parents[2] / "docs" / "scaling.py"


def scaling() -> Any:
    spec = importlib.util.spec_from_file_location("scaling", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_parameters_are_counted_as_a_model_has_them() -> None:
    toy = Shape(layers=2, width=32, inner=64, key_width=16, vocabulary=61, tied=False)
    assert toy.parameters == sum(p.numel() for p in toy_llama().parameters())
    # As published: 1.24, 8.03 and 70.6 billion.
    assert [round(shape.parameters / 1e9, 2) for shape in scaling().SHAPES.values()] == [1.24, 8.03, 70.55]


def test_what_is_cut_and_what_is_not() -> None:
    shape = Shape(layers=2, width=32, inner=64, key_width=16, vocabulary=61, tied=False)
    one, four, more = (need(shape, gpus, tokens=100) for gpus in (1, 4, 10**9))
    assert one.state == 16 * shape.parameters == 4 * four.state
    assert one.sent == one.gathered == 0
    assert one.activations == four.activations and four.gathered == more.gathered
    assert more.sent == pytest.approx(2 * (2 * 2 * shape.block + 4 * shape.root) + 4 * shape.parameters)
    assert need(shape, 4, 100, trained=0).state == 4 * shape.parameters / 4


def test_what_is_shared_side_by_side() -> None:
    shape = Shape(layers=2, width=32, inner=64, key_width=16, vocabulary=61, tied=False)
    apart, beside = need(shape, 8, tokens=100), need(shape, 8, tokens=100, tensor=4)
    assert (apart.beside, apart.state) == (0, beside.state)
    # One block less of three quarters: twice in bfloat16, once as a gradient in bfloat16 and once in float32.
    assert apart.gathered - beside.gathered == pytest.approx(0.75 * (2 + 2 + 2 + 4) * shape.block)
    assert apart.activations - beside.activations == 0.75 * 100 * 2 * 2 * (2 * 32 + 2 * 16 + 3 * 64)
    # Six sums of [100, 32] in bfloat16 in each of two blocks, around a ring of four.
    assert beside.beside == 2 * 6 * 2 * 0.75 * 100 * 32 * 2
    # Nobody shares rows: no block travels, embeddings and head do.
    assert need(shape, 8, 100, tensor=8).sent == pytest.approx(7 / 8 * 4 * shape.root * 3)


def test_the_page_is_up_to_date() -> None:
    module = scaling()
    text = module.PAGE.read_text()
    assert module.page(text) == text, "run python docs/scaling.py"
    assert text.count("| 70B (70.55) | 64 |") == 4
