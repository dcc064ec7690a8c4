"""Optimizers by name and schedules as functions of the step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tempering.config import Optimizer, Schedule
from tempering.errors import UserError
from tempering.optim import build, rate


def params() -> dict[str, nn.Parameter]:
    return {"weight": nn.Parameter(torch.ones(3, 2)), "bias": nn.Parameter(torch.ones(3)), "gate": nn.Parameter(torch.tensor(1.0))}


def test_only_matrices_decay() -> None:
    p = params()
    optimizer = build(Optimizer(name="sgd", lr=0.5, weight_decay=0.1), p)
    for x in p.values():
        x.grad = torch.zeros_like(x)
    optimizer.step()
    assert torch.allclose(p["weight"], torch.full((3, 2), 1 - 0.5 * 0.1))
    assert torch.equal(p["bias"], torch.ones(3)) and p["gate"].item() == 1.0


@pytest.mark.parametrize("name", ["adamw", "AdamW", "adam", "adafactor", "rmsprop", "nadam", "radam", "torch:sgd"])
def test_names_of_torch_optimizers(name: str) -> None:
    optimizer = build(Optimizer(name=name, lr=0.01), params())
    assert type(optimizer).__name__.lower() == name.lower().removeprefix("torch:")
    assert all(group["lr"] == 0.01 for group in optimizer.param_groups)


def test_options_reach_the_constructor() -> None:
    optimizer = build(Optimizer(lr=0.01, options={"betas": [0.8, 0.95], "eps": 1e-6}), params())
    assert tuple(optimizer.param_groups[0]["betas"]) == (0.8, 0.95) and optimizer.param_groups[0]["eps"] == 1e-6


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (Optimizer(name="adamv"), "did you mean 'adam"),
        (Optimizer(name="os:system"), "the package before the colon is one of bitsandbytes, pytorch_optimizer, torch"),
        (Optimizer(name="zzzz"), "known are"),
        (Optimizer(name="pytorch_optimizer:lion"), "pip install pytorch-optimizer"),
        (Optimizer(options={"momentumm": 1}), "was refused"),
        (Optimizer(options={"betas": [2.0, 0.9]}), "was refused"),
        (Optimizer(name="muon"), "was refused"),
    ],
)
def test_what_cannot_be_built_is_one_sentence(config: Optimizer, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence.replace("(", r"\(")):
        build(config, params())


def test_schedules_by_hand() -> None:
    # Ten steps, two of them warm-up: thirds of the way up, then eight steps down from 1.
    linear = [rate(Schedule(name="linear", warmup=0.2), i, 10) for i in range(10)]
    assert linear == pytest.approx([1 / 3, 2 / 3, *[1 - i / 8 for i in range(8)]])
    cosine = [rate(Schedule(name="cosine", warmup=0, floor=0.1), i, 4) for i in range(4)]
    assert cosine == pytest.approx([0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4)])
    assert {rate(Schedule(name="constant", warmup=0), i, 7) for i in range(7)} == {1.0}
    wsd = [rate(Schedule(name="wsd", warmup=0, decay=0.5), i, 8) for i in range(8)]
    assert wsd == pytest.approx([1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
