"""Optimizers with less state: the bytes they keep, that they learn, and that a resumed run ends with the same bits."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from tempering.config import Optimizer, Training
from tempering.data.streams import Shuffled
from tempering.errors import Interrupted
from tempering.fit import Stopper, fit
from tempering.methods.objectives.nll import NLL
from tempering.methods.scopes.full import Full
from tempering.optim import build
from tempering.types import Role
from tests.toy import toy_llama, toy_rows

BITS_8 = "bitsandbytes:AdamW8bit"
NAMES = ["adamw", "adafactor", "sophia", BITS_8]


def _needs(name: str) -> None:
    if name.startswith("bitsandbytes") and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")


def _stepped(name: str, *shapes: tuple[int, ...]) -> list[dict[str, torch.Tensor]]:
    params = {f"p{i}": torch.nn.Parameter(torch.randn(shape)) for i, shape in enumerate(shapes)}
    optimizer = build(Optimizer(name=name, lr=0.01), params)
    for p in params.values():
        p.grad = torch.randn_like(p)
    optimizer.step()
    return [{slot: x for slot, x in optimizer.state[p].items() if isinstance(x, torch.Tensor) and x.dim() > 0} for p in params.values()]


def test_adam_keeps_two_numbers_of_four_bytes_for_each_weight() -> None:
    for state, size in zip(_stepped("adamw", (96, 64), (64,)), (96 * 64, 64), strict=True):
        assert sum(x.nbytes for x in state.values()) == 2 * 4 * size


def test_adafactor_keeps_a_row_and_a_column_of_a_matrix() -> None:
    matrix, vector = _stepped("adafactor", (96, 64), (64,))
    assert sum(x.nbytes for x in matrix.values()) == 4 * (96 + 64)
    assert sum(x.nbytes for x in vector.values()) == 4 * 64


def test_8_bit_adam_keeps_two_bytes_for_each_weight_and_two_scales_for_256() -> None:
    _needs(BITS_8)
    matrix, small = _stepped(BITS_8, (96, 64), (64,))
    tables = {slot: x for slot, x in matrix.items() if slot.startswith("qmap")}
    assert sum(x.nbytes for slot, x in matrix.items() if slot not in tables) == 2 * 96 * 64 + 2 * 4 * (96 * 64 // 256)
    assert [x.nbytes for x in tables.values()] == [4 * 256, 4 * 256], "tables of 256 levels, shared by all weights"
    # Under 4,096 elements nothing is gained, and it stays in float32.
    assert sum(x.nbytes for x in small.values()) == 2 * 4 * 64


def _train(
    name: str, folder: Path | None, *, steps: int = 12, resume: bool = False, stop_at: int | None = None
) -> tuple[list[float], dict[str, torch.Tensor]]:
    rows, losses, stopper = toy_rows(8), [], Stopper()

    def note(metrics: object) -> None:
        losses.append(metrics["loss"])  # type: ignore[index]
        if metrics["step"] == stop_at:  # type: ignore[index]
            stopper("the test")

    # Wide enough for 8-bit states: matrices of 4,096 elements and more.
    fitted = fit(
        {"policy": Role(toy_llama(hidden=64), Full())}, NLL(), Shuffled(rows, 8), steps=steps, optimizer=Optimizer(name=name, lr=3e-3), folder=folder,
        training=Training(precision="fp32", save_every=0), resume=resume, say=lambda _: None, on_metrics=note, stopper=stopper,
    )  # fmt: skip
    return losses, {n: p.detach().clone() for n, p in fitted.roles["policy"].handle.params.items()}  # type: ignore[union-attr]


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls(name: str) -> None:
    _needs(name)
    losses, _ = _train(name, None)
    assert losses[-1] < losses[0] - 0.3


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    _needs(name)
    _, whole = _train(name, tmp_path / "whole")
    with pytest.raises(Interrupted):
        _train(name, tmp_path / "cut", stop_at=5)
    _, resumed = _train(name, tmp_path / "cut", resume=True)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[n], resumed[n]) for n in whole)
