"""MemFlex's region: which tensors are chosen, at the limits of mu and sigma, and that all others stay to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tempering.config import Optimizer, Training
from tempering.data.streams import Shuffled
from tempering.fit import fit
from tempering.forgetting.localise import Region, mean_gradients, noised, region
from tempering.methods.objectives.nll import NLL
from tempering.methods.scopes.full import Full
from tempering.methods.scopes.lora import LoRA
from tempering.signals import Engine
from tempering.types import Role, Row, Segment
from tests.conftest import make_llama


def rows(part: str, seed: int, n: int = 5) -> list[Row]:
    draw = np.random.Generator(np.random.PCG64(seed))
    made = []
    for i in range(n):
        ids = draw.integers(4, 270, 5 + i).astype(np.int32)
        made.append({part: (Segment(ids, np.array([0.0, 0.0, *[1.0] * (3 + i)], dtype=np.float32)),)})
    return made


def gradients(handle: Any, part: str, seed: int) -> dict[str, Tensor]:
    return mean_gradients(handle, rows(part, seed), part, Engine(), micro_tokens=16)


def test_the_choice_by_hand() -> None:
    forget = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([3.0, 4.0]), "c": torch.tensor([0.25, 0.0]), "d": torch.zeros(2)}
    retain = {"a": torch.tensor([4.0, 3.0]), "b": torch.tensor([6.0, 8.0]), "c": torch.tensor([-1.0, 0.0]), "d": torch.ones(2)}
    # Cosines 0.96, 1, -1 and, of nothing, 0; means 3.5, 3.5, 0.125 and 0.
    assert region(forget, retain, 0.97, 0.0) == ["a", "c"]
    assert region(forget, retain, 0.95, 0.0) == ["c"] and region(forget, retain, 0.97, 0.125) == ["a"], "an equal mean is not above it"
    assert region(forget, retain, 1.01, 0.0) == ["a", "b", "c"]


def test_gradients_are_means_of_the_rows_means_and_leave_nothing_behind() -> None:
    model = make_llama()
    handle = Full(only="layers\\.1").attach(model)
    found = gradients(handle, "forget", 1)
    assert set(found) == set(handle.params) and all(p.grad is None for p in handle.params.values())
    losses = []
    for row in rows("forget", 1):
        ids = torch.tensor(row["forget"][0].ids.tolist())[None]
        logp = model(ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
        losses.append(-logp[1:].mean())
    expected = torch.autograd.grad(torch.stack(losses).mean(), list(handle.params.values()))
    assert all(torch.allclose(found[name], g, atol=1e-6) for name, g in zip(handle.params, expected, strict=True))


def test_the_limits_of_the_catalogue() -> None:
    handle = LoRA(r=2).attach(make_llama())
    forget, retain = gradients(handle, "forget", 1), gradients(handle, "retain", 2)
    chosen = region(forget, retain, 1.01, 0.0)
    assert chosen == [name for name in handle.params if "lora_B" in name], "a new adapter's A has no gradient; every other tensor is in"
    assert region(forget, forget, 0.999, 0.0) == [], "what both pull at alike is nobody's"


def test_outside_the_region_nothing_moves() -> None:
    model = make_llama()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    seen: list[str] = []

    def choose(handle: Any) -> list[str]:
        seen.extend(sorted(handle.params)[:3])
        return seen

    fitted = fit(
        {"policy": Role(model, Region(Full(), choose))}, NLL("forget"), Shuffled(rows("forget", 1), 5), steps=2,
        optimizer=Optimizer(lr=1e-2), training=Training(precision="fp32", save_every=0), say=lambda _: None,
    )  # fmt: skip
    assert list(fitted.roles["policy"].handle.params) == seen  # type: ignore[union-attr]
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert sorted(moved) == seen


def test_noise_replaces_scored_tokens_only() -> None:
    s = Segment(np.arange(100, 121, dtype=np.int32), np.array([0.0] * 11 + [0.5] * 10, dtype=np.float32))
    found = noised(s, 50, np.random.Generator(np.random.PCG64(0)))
    changed = np.flatnonzero(found.ids != s.ids)
    assert 1 <= len(changed) <= 5 and changed.min() >= 11 and found.ids[changed].max() < 50 and (found.weight == s.weight).all()
    assert s.ids[11] == 111, "the row itself stays"
    again = noised(s, 50, np.random.Generator(np.random.PCG64(0)))
    assert again.ids.tolist() == found.ids.tolist()
    with pytest.raises(AttributeError):
        Region(object(), list)
