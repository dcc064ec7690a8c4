"""LAF: answers are never looked at, nothing has moved at the start, and a density is what its rows span; and no forget term, no forgetting."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tempering.config import Optimizer, Training
from tempering.data.streams import Shuffled
from tempering.fit import Means, count_terms, fit, total
from tempering.forgetting.unlabelled import Prompts, densities, density
from tempering.layout import collate
from tempering.methods.objectives.gradient_ascent import GradientAscent
from tempering.methods.objectives.laf import LAF
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.npo import NPO
from tempering.methods.scopes.full import Full
from tempering.signals import Engine, Live
from tempering.types import Objective, Policy, Role, Row, Segment
from tests.conftest import make_llama, make_tokenizer

TRAINING = Training(precision="fp32", save_every=0)


def rows(part: str, seed: int, answers: int = 0, n: int = 6) -> list[Row]:
    """Random rows; another number of `answers`, other answers to the same prompts."""
    draw, said = np.random.Generator(np.random.PCG64(seed)), np.random.Generator(np.random.PCG64(answers))
    weight = np.array([0.0] * 5 + [1.0] * 3, dtype=np.float32)
    return [{part: (Segment(np.concatenate([draw.integers(4, 270, 5), said.integers(4, 270, 3)]).astype(np.int32), weight),)} for _ in range(n)]


def both(answers: int = 0) -> list[Row]:
    forget, retain = rows("forget", 1, answers), rows("retain", 2, answers)
    return [{**a, **b} for a, b in zip(forget, retain, strict=True)]


def trained(objective: Objective, of: Any, layout: Any = "padded") -> dict[str, Tensor]:
    model = make_llama()
    fit(
        {"policy": Role(model, Full())}, objective, Shuffled(of, 3), steps=3, optimizer=Optimizer(lr=1e-2), training=TRAINING,
        engine=Engine(layout), say=lambda _: None,
    )  # fmt: skip
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_other_answers_leave_the_same_weights_to_the_bit() -> None:
    found = []
    for answers in (0, 9):
        of = Prompts(both(answers))
        start = Policy(make_llama(), make_tokenizer())
        found.append(trained(densities(start, LAF(layer=1, latent=2), of, of, Engine()), of))
    first, second = found
    start_weights = dict(make_llama().named_parameters())
    assert all(torch.equal(p, second[name]) for name, p in first.items())
    assert any(not torch.equal(p, start_weights[name]) for name, p in first.items())


def test_prompts_lose_their_answers_and_texts_stay_whole() -> None:
    row = Prompts(rows("forget", 1))[0]["forget"][0]
    assert row.ids.tolist() == rows("forget", 1, answers=7)[0]["forget"][0].ids[:5].tolist() and row.weight.tolist() == [0, 1, 1, 1, 1]
    text = Segment(np.arange(4, 9, dtype=np.int32), np.array([0.0, 1.0, 1.0, 1.0, 1.0], dtype=np.float32))
    assert Prompts([{"forget": (text,)}])[0]["forget"][0].ids.tolist() == text.ids.tolist()


def test_at_the_start_nothing_has_turned_and_each_term_is_between_1_and_e() -> None:
    of, model = Prompts(both()), make_llama()
    objective = densities(Policy(model, make_tokenizer()), LAF(layer=2, latent=2), of, of, Engine())
    handle, log = Full().attach(model), Means()
    handle.keep_reference()
    parts = collate([of[i] for i in range(6)])
    with torch.no_grad():
        total({"policy": Live(model, handle)}, objective, [lambda: parts], count_terms(objective, [parts]), 0, Engine(), log)
    assert log.means()["forget_moved"] == pytest.approx(0, abs=1e-6) and log.means()["retain_moved"] == pytest.approx(0, abs=1e-6)
    every = objective.densities[0]
    errors = every.error(torch.randn(5, len(every.mean), dtype=torch.float64) * 100)
    terms = torch.exp(errors / (errors + 1))
    assert bool((terms >= 1).all()) and bool((terms < torch.e).all())


def test_a_density_is_mean_and_leading_directions() -> None:
    g = torch.tensor([[1.0, 5.0, 0.0], [3.0, 5.0, 0.5], [5.0, 5.0, 1.0]], dtype=torch.float64)
    found = density(g, 8)
    assert found.mean == (3.0, 5.0, 0.5) and len(found.basis) == 1, "these lie on a line"
    assert torch.allclose(found.error(g), torch.zeros(3, dtype=torch.float64), atol=1e-12)
    assert float(found.error(g[:1] + torch.tensor([[0.0, 2.0, 0.0]]))[0]) == pytest.approx(4.0)
    assert len(density(torch.randn(9, 5, dtype=torch.float64), 2).basis) == 2


@pytest.mark.parametrize("objective", [GradientAscent(weight=0.0, retain_loss="nll"), NPO(weight=0.0, retain_loss="nll")])
def test_without_the_forget_term_it_is_fine_tuning_on_what_stays_to_the_bit(objective: Objective) -> None:
    """S076: all ways to forget go through one interface, so the retain term alone is supervised fine-tuning."""
    of = both()
    expected = trained(NLL("retain"), of)
    got = trained(objective, copy.deepcopy(of))
    assert all(torch.equal(p, got[name]) for name, p in expected.items())
