"""L-CODEC's pieces: dependence, the damped inverse, the step on a quadratic, and that only chosen rows move."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tempering.errors import UserError
from tempering.forgetting.newton import blanket, foci, inverse_times, replaced, step, units
from tempering.signals import Engine
from tempering.types import Row, Segment
from tests.conftest import make_llama


def rows(part: str, seed: int, n: int = 6) -> list[Row]:
    draw = np.random.Generator(np.random.PCG64(seed))
    weight = np.array([0.0] * 4 + [1.0] * 3, dtype=np.float32)
    return [{part: (Segment(draw.integers(4, 270, 7).astype(np.int32), weight),)} for _ in range(n)]


def test_one_newton_step_is_retraining_where_the_loss_is_quadratic() -> None:
    torch.manual_seed(0)
    x, y, ridge = torch.randn(12, 4, dtype=torch.float64), torch.randn(12, dtype=torch.float64), 0.3

    def best(keep: slice) -> torch.Tensor:
        n = len(y[keep])
        return torch.linalg.solve(x[keep].T @ x[keep] / n + ridge * torch.eye(4, dtype=torch.float64), x[keep].T @ y[keep] / n)

    every, without = best(slice(None)), best(slice(1, None))
    gradient = x[0] * (x[0] @ every - y[0]) + ridge * every
    moved = every + inverse_times(x[1:], gradient, ridge) / 11
    assert torch.allclose(moved, without, atol=1e-12)
    assert not torch.allclose(every, without, atol=1e-3)
    direct = torch.linalg.solve(x.T @ x / 12 + 0.05 * torch.eye(4, dtype=torch.float64), gradient)
    assert torch.allclose(inverse_times(x, gradient, 0.05), direct, atol=1e-12)


def test_dependence_finds_what_the_loss_is_made_of() -> None:
    draw = np.random.Generator(np.random.PCG64(0))
    z = draw.normal(size=(300, 6))
    z[:, 5] = 7.0
    y = z[:, 2] ** 2 + 0.0 * z[:, 0]
    assert foci(y, z, 3)[0] == 2, "no correlation is needed"
    both = foci(np.sign(z[:, 1]) * np.abs(z[:, 3]), z, 2)
    assert set(both) == {1, 3}
    assert foci(y, z, 0) == [] and len(foci(y, z, 1)) == 1
    assert 5 not in foci(draw.normal(size=300), z, 6), "what never moves explains nothing"
    assert foci(np.ones(300), z, 3) == [], "a loss that never moves depends on nothing"


def test_the_statistic_by_hand() -> None:
    # Of five draws in order, each one's neighbour (the first of equals) is 1, 0, 1, 2, 3, so the sum of the smaller ranks is 1+1+2+3+4 = 11, and
    # 5 * 11 = 55 = the sum of squares: nothing above chance. Twice as many draws leave something.
    line = np.arange(5.0)[:, None]
    assert foci(line[:, 0], line, 1) == []
    assert foci(np.arange(20.0), np.arange(20.0)[:, None], 1) == [0]


def test_only_the_chosen_rows_move() -> None:
    model: Any = make_llama()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    how: dict[str, Any] = {"total": 50, "examples": 4, "damping": 0.1, "engine": Engine()}
    assert step(model, {}, rows("forget", 1), rows("retain", 2), **how) == 0.0
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    name = "model.layers.1.mlp.down_proj.weight"
    length = step(model, {name: [5, 2]}, rows("forget", 1), rows("retain", 2), **how)
    now = dict(model.named_parameters())
    assert [n for n in before if not torch.equal(now[n], before[n])] == [name]
    changed = now[name] - before[name]
    assert sorted(set(changed.nonzero()[:, 0].tolist())) == [2, 5] and float(changed.norm()) == pytest.approx(length, rel=1e-4)
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())


def test_the_step_is_the_formula() -> None:
    name = "model.layers.0.mlp.down_proj.weight"

    def gradient(of: list[Row], part: str) -> torch.Tensor:
        model: Any = make_llama()
        losses = []
        for row in of:
            ids = torch.tensor(row[part][0].ids.tolist())[None]
            logp = model(ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
            losses.append(-logp[3:].mean())
        (g,) = torch.autograd.grad(torch.stack(losses).mean(), [model.get_parameter(name)])
        return g[3].double()

    forget, retain = rows("forget", 1), rows("retain", 2)
    model: Any = make_llama()
    before = model.get_parameter(name).detach().clone()
    step(model, {name: [3]}, forget, retain, total=50, examples=3, damping=0.1, engine=Engine())
    each = torch.stack([gradient([retain[i]], "retain") for i in (0, 2, 4)])
    hessian = each.T @ each / 3 + 0.1 * torch.eye(each.shape[1], dtype=torch.float64)
    expected = torch.linalg.solve(hessian, gradient(forget, "forget")) * 6 / 50
    assert torch.allclose((model.get_parameter(name) - before)[3].double(), expected, atol=1e-6)


def test_units_and_their_blanket() -> None:
    model: Any = make_llama()
    found = units(model, "down_proj|o_proj")
    assert found[1] == ["model.layers.1.mlp.down_proj.weight", "model.layers.1.self_attn.o_proj.weight"] and sorted(found) == [0, 1]
    with pytest.raises(UserError, match="writes the 32 numbers of the hidden state"):
        units(model, "gate_proj")
    how: dict[str, Any] = {"draws": 40, "share": 0.5, "most": 3, "seed": 0, "engine": Engine()}
    chosen = blanket(model, rows("forget", 1), [0, 1], **how)
    assert 0 < len(chosen) <= 3 and all(block in (0, 1) and 0 <= unit < 32 for block, unit in chosen)
    assert chosen == blanket(model, rows("forget", 1), [0, 1], **how)


def test_prompts_are_perturbed_and_answers_are_not() -> None:
    s = rows("forget", 3)[0]["forget"][0]
    draw = np.random.Generator(np.random.PCG64(0))
    assert replaced(s, 1.0, 4, draw).ids[:4].max() < 4 and replaced(s, 1.0, 4, draw).ids[4:].tolist() == s.ids[4:].tolist()
    assert replaced(s, 1e-9, 4, draw).ids.tolist() == s.ids.tolist()
    text = Segment(s.ids, np.array([0.0] + [1.0] * 6, dtype=np.float32))
    assert replaced(text, 1.0, 4, draw).ids.max() < 4, "a text has no prompt"
