"""Optimizers by name and schedules as functions of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import pytest
import torch
from torch import nn

from tempering import optim
from tempering.config import Optimizer, Schedule, Training
from tempering.curvature import OwnLabels
from tempering.data.streams import Shuffled
from tempering.errors import UserError
from tempering.fit import fit
from tempering.methods.objectives.nll import NLL
from tempering.methods.scopes.full import Full
from tempering.optim import build, rate
from tempering.types import Role
from tests.toy import toy_llama, toy_rows


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


def sophia(at: list[float], gradient: list[float], **how: Any) -> tuple[torch.Tensor, torch.optim.Optimizer]:
    """(where these weights are after a step, the optimizer); h is as given where `curvature` is."""
    p = nn.Parameter(torch.tensor([at], dtype=torch.float64))
    curvature = how.pop("curvature", None)
    optimizer = build(Optimizer(name="sophia", lr=how.pop("lr", 0.1), weight_decay=how.pop("weight_decay", 0.0), options=how), {"w": p})
    p.grad = torch.tensor([gradient], dtype=torch.float64)
    if curvature is not None:
        optimizer.state[p] = {"momentum": torch.zeros_like(p), "curvature": torch.tensor([curvature], dtype=torch.float64)}
    optimizer.step()
    return p.detach()[0], optimizer


def test_sophia_by_hand() -> None:
    # m = 0.2 g, h = 0.5 g^2: m / (gamma h) = 0.4 / (gamma g), which is above 1 for the first alone.
    after, optimizer = sophia([1.0, 1.0], [0.1, -2.0], betas=[0.8, 0.5], gamma=1.0, weight_decay=0.5)
    assert after.tolist() == pytest.approx([0.95 - 0.1, 0.95 + 0.1 * 0.2])
    ((p, state),) = optimizer.state.items()
    p.grad = torch.tensor([[0.3, 0.0]], dtype=torch.float64)
    optimizer.step()
    assert state["momentum"][0].tolist() == pytest.approx([0.8 * 0.02 + 0.2 * 0.3, 0.8 * -0.4])
    assert state["curvature"][0].tolist() == pytest.approx([0.5 * 0.005 + 0.5 * 0.09, 0.5 * 2.0])


def test_sophia_at_its_limits() -> None:
    gradient = [3.0, -1e-4, 0.0, 0.7]
    signs, _ = sophia([0.0] * 4, gradient, gamma=0.0)
    assert signs.tolist() == [-0.1, 0.1, 0.0, -0.1], "without curvature every step is the sign"
    smooth, _ = sophia([0.0] * 4, gradient, gamma=1e6, eps=1e-30, betas=[0.9, 0.95])
    expected = [-0.1 * 0.1 / (0.05e6 * g) if abs(0.1 / (0.05e6 * g)) < 1 else math.copysign(0.1, -g) for g in (3.0, -1e-4, 1.0, 0.7)]
    assert smooth[[0, 1, 3]].tolist() == pytest.approx([expected[0], expected[1], expected[3]])
    for gamma in (0.0, 0.01, 1.0, 100.0):
        assert bool((sophia([0.0] * 4, gradient, gamma=gamma)[0].abs() <= 0.1).all()), "no coordinate moves by more than lr"


def test_sophia_with_the_exact_curvature_of_a_quadratic_is_newtons_step() -> None:
    hessian, best, at = [4.0, 0.5, 2.0], [1.0, -2.0, 3.0], [1.5, -1.25, 7.0]
    gradient = [h * (x - b) for h, x, b in zip(hessian, at, best, strict=True)]
    almost = 1 - 1e-12  # of the old curvature; 1 itself is refused
    after, _ = sophia(at, gradient, lr=1.0, betas=[0.0, almost], gamma=1.0, curvature=hessian)
    assert after.tolist() == pytest.approx([1.0, -2.0, 6.0], abs=1e-9), "solved within 1 of the optimum, one unit nearer beyond"


def test_sophia_refuses_what_is_out_of_range() -> None:
    for options in ({"betas": [1.0, 0.9]}, {"gamma": -1.0}, {"eps": 0.0}, {"rho": 1}):
        with pytest.raises(UserError, match="was refused"):
            build(Optimizer(name="sophia", options=options), params())


def test_sophia_takes_the_curvature_from_drawn_labels_every_so_often() -> None:
    p = nn.Parameter(torch.zeros(1, 2, dtype=torch.float64))
    optimizer: Any = build(Optimizer(name="sophia", lr=1e-9, weight_decay=0.0, options={"betas": [0.9, 0.5], "every": 2}), {"w": p})
    p.grad = torch.tensor([[0.5, -2.0]], dtype=torch.float64)
    optimizer.look(8.0)
    assert optimizer.state[p]["curvature"].tolist() == [[0.5 * 8 * 0.25, 0.5 * 8 * 4.0]]
    optimizer.step()
    assert optimizer.state[p]["curvature"].tolist() == [[1.0, 16.0]], "the step's own gradient is not in it"
    assert optimizer.state[p]["momentum"][0].tolist() == pytest.approx([0.05, -0.2])


def test_drawn_labels_estimate_the_gauss_newton_diagonal() -> None:
    # Of -log softmax(z)[y] with y drawn from softmax(z): E[(p - onehot)^2] = p (1 - p).
    n = 40_000
    z = torch.tensor([0.3, -1.0, 1.5], dtype=torch.float64)
    logits = z.expand(n, 3).clone().requires_grad_()
    losses = OwnLabels()(cast(Any, {}), {"train": {"logits": logits}}, cast(Any, None))
    (g,) = torch.autograd.grad(losses.sum(), logits)
    p = z.softmax(-1)
    assert torch.allclose(g.square().mean(0), p * (1 - p), rtol=0.03)
    assert torch.allclose(g.mean(0), torch.zeros(3, dtype=torch.float64), atol=0.01)


class Looking(torch.optim.SGD):
    """Plain descent that notes when it is shown the curvature."""

    every = 3
    looks: ClassVar[list[float]] = []

    def look(self, size: float) -> None:
        assert any(bool(x.grad.any()) for group in self.param_groups for x in group["params"])
        self.looks.append(size)


def test_a_run_looks_at_the_curvature_in_its_turn_and_its_gradients_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(cls: type[torch.optim.SGD]) -> tuple[list[float], list[float]]:
        def made(config: Optimizer, params: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
            return cls(list(params.values()), lr=config.lr)

        monkeypatch.setattr(optim, "build", made)
        losses: list[float] = []
        fit(
            {"policy": Role(toy_llama(), Full())}, NLL(), Shuffled(toy_rows(8), 4), steps=5, optimizer=Optimizer(lr=1e-2),
            training=Training(precision="fp32", save_every=0), say=lambda _: None, on_metrics=lambda m: losses.append(m["loss"]),
        )  # fmt: skip
        return losses, list(Looking.looks)

    plain, none = run(torch.optim.SGD)
    looked, sizes = run(Looking)
    assert none == [] and looked == plain
    # Steps 0 and 3: as many labels as there are scored tokens.
    weights = [sum(float(row["train"][0].weight.sum()) for row in toy_rows(8))]
    assert len(sizes) == 2 and all(0 < size < weights[0] for size in sizes)
