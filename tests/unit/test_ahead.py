"""`fit(ahead=...)`: the gradient is taken one step up another objective, and the weights move from where they were (S217, MetaRM)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tempering.config import Optimizer, Schedule, Training
from tempering.data.streams import Shuffled
from tempering.fit import Means, count_terms, fit, total
from tempering.layout import collate
from tempering.methods.objectives.bradley_terry import BradleyTerry
from tempering.methods.objectives.meta_rm import MetaRM
from tempering.methods.scopes.full import Full
from tempering.models.value import ValueModel
from tempering.signals import Engine, Live
from tempering.types import Role
from tests.toy import toy_llama, toy_rows

ALL: Any = Full()
FP32 = Training(precision="fp32", save_every=0, clip=None)


def rows() -> list[Any]:
    made = toy_rows(6, ("chosen", "rejected"))
    others = toy_rows(18, ("train",))
    return [{**row, "responses": tuple(others[3 * i + j]["train"][0] for j in range(3))} for i, row in enumerate(made)]


def model() -> ValueModel:
    made = ValueModel(toy_llama())
    torch.manual_seed(1)
    torch.nn.init.normal_(made.value_head.weight)
    return made


def trained(rate: float | None, lr: float = 0.1, **settings: Any) -> dict[str, torch.Tensor]:
    mine = model()
    steady = Schedule(name="constant", warmup=0)
    fit(
        {"policy": Role(mine, ALL)}, BradleyTerry(), Shuffled(rows(), 6), steps=settings.pop("steps", 1),
        optimizer=Optimizer(name="sgd", lr=lr, weight_decay=0.0), schedule=steady, training=FP32.model_copy(update=settings),
        say=lambda _: None, ahead=None if rate is None else (rate, MetaRM()),
    )  # fmt: skip
    return {name: p.detach() for name, p in mine.named_parameters()}


def gradient(of: Any, objective: Any) -> list[torch.Tensor]:
    parts = collate(rows())
    for p in of.parameters():
        p.grad = None
    total({"policy": Live.attach(Role(of, ALL))}, objective, [lambda: parts], count_terms(objective, [parts]), 0, Engine(), Means())
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in of.parameters()]


def test_the_gradient_is_taken_one_step_up_and_moves_the_weights_themselves() -> None:
    start = model()
    up = gradient(start, MetaRM())
    moved = copy.deepcopy(start)
    with torch.no_grad():
        for p, g in zip(moved.parameters(), up, strict=True):
            p.add_(g, alpha=0.5)
    down = gradient(moved, BradleyTerry())
    found = trained(0.5)
    for (name, p), g in zip(start.named_parameters(), down, strict=True):
        torch.testing.assert_close(found[name], p.detach() - 0.1 * g, rtol=1e-5, atol=1e-6)
    plain = gradient(start, BradleyTerry())
    assert max(float((a - b).abs().max()) for a, b in zip(plain, down, strict=True)) > 1e-3


def test_a_rate_of_0_is_the_plain_loss_and_weights_are_put_back_to_the_bit() -> None:
    plain, zero = trained(None, steps=3), trained(0.0, steps=3)
    assert all(torch.equal(plain[name], zero[name]) for name in plain)
    still, start = trained(0.7, lr=1e-30, steps=3), dict(model().named_parameters())
    assert all(torch.equal(still[name], start[name]) for name in start)


def test_micro_batches_change_nothing() -> None:
    whole, cut = trained(0.5), trained(0.5, micro_tokens=24)
    for name in whole:
        torch.testing.assert_close(whole[name], cut[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_spread_lies_between_its_bounds(k: int) -> None:
    """S217: (k - 1) / 2k where all rewards are equal, (k - 1) / k where all are far apart."""
    from tempering.cases import Case
    from tempering.proof import hand

    def spread(values: list[float]) -> float:
        case = Case("", MetaRM(), {"responses": {"reward": [[v] for v in values]}}, 0.0, groups={"responses": [0] * k})
        return hand.run(case.objective, hand.tensors(case)).loss

    rewards = torch.linspace(-1, 2, k).tolist()
    assert spread([1.0] * k) == pytest.approx((k - 1) / (2 * k)) and spread([100.0 * i for i in range(k)]) == pytest.approx((k - 1) / k)
    assert (k - 1) / (2 * k) < spread(rewards) < (k - 1) / k
