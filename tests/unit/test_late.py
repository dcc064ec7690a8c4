"""Losses by token: in chunks they equal the whole, with logits of every role, and memory does not know the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tempering import fused
from tempering.fit import Means, count_terms, total
from tempering.layout import collate, split
from tempering.methods.objectives.forward_kl import ForwardKL
from tempering.methods.objectives.gkd import GKD
from tempering.methods.objectives.kl_reference import KLReference
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.reverse_kl import ReverseKL
from tempering.methods.objectives.skew_kl import SkewKL
from tempering.methods.scopes.full import Full
from tempering.methods.scopes.lora import LoRA
from tempering.signals import Engine, Live, compute
from tempering.types import Context, Objective, Parts, Role, Signals
from tests.toy import VOCAB, toy_llama, toy_rows

PARTS = collate(toy_rows(6, seed=3))
KLS = [ForwardKL(), ForwardKL(temperature=2.0), ReverseKL(), GKD(), GKD(beta=0.1), SkewKL(), SkewKL(reverse=True)]


def roles(scope: Any = None, teacher: int | None = 1) -> dict[str, Live]:
    moves: Any = scope or Full()
    found = {"policy": Live.attach(Role(toy_llama(), moves))}
    return found | ({"teacher": Live.attach(Role(toy_llama(teacher)))} if teacher is not None else {})


def step(objective: Objective, live: Mapping[str, Live], engine: Engine, parts: Parts = PARTS, micro: int | None = None) -> tuple[float, dict, dict]:
    handle, log = live["policy"].handle, Means()
    assert handle is not None
    for p in handle.params.values():
        p.grad = None
    micros = [(lambda m=m: m) for m in split(parts, micro)]
    loss = total(live, objective, micros, count_terms(objective, [parts]), 0, engine, log)
    return loss, {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in handle.params.items()}, log.means()


def assert_equal(a: tuple[float, dict, dict], b: tuple[float, dict, dict]) -> None:
    assert a[0] == pytest.approx(b[0], rel=1e-6, abs=1e-7) and a[2] == pytest.approx(b[2], rel=1e-6)
    for name, gradient in a[1].items():
        assert float((gradient - b[1][name]).abs().max()) <= 1e-6 * max(1.0, float(gradient.abs().max())), name


@pytest.mark.parametrize("objective", [*KLS, ForwardKL() + 0.5 * NLL()], ids=str)
@pytest.mark.parametrize("micro", [None, 30])
def test_in_chunks_is_as_a_whole(objective: Objective, micro: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    live = roles()
    whole = step(objective, live, Engine(late=False))
    monkeypatch.setattr(fused, "CHUNK_ELEMENTS", 4 * 3 * VOCAB)
    assert_equal(whole, step(objective, live, Engine(), micro=micro))
    assert whole[0] > 0 and any(g.abs().max() > 1e-4 for g in whole[1].values())


@dataclass(frozen=True)
class LateKLReference(KLReference):
    by_token = True


@pytest.mark.parametrize("scope", [Full(), LoRA(r=2, targets="q_proj,lm_head")], ids=["full", "lora"])
def test_the_reference_is_read_with_the_scope_off(scope: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its output layer too, which an adapter on the output layer tells."""
    live = roles(scope, teacher=None)
    handle = live["policy"].handle
    assert handle is not None
    handle.keep_reference()
    with torch.no_grad():
        for p in handle.params.values():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    whole = step(KLReference(), live, Engine())
    monkeypatch.setattr(fused, "CHUNK_ELEMENTS", 4 * 3 * VOCAB)
    assert_equal(whole, step(LateKLReference(), live, Engine()))
    assert whole[0] > 1e-3


@dataclass(frozen=True)
class _Watching(ForwardKL):
    seen: tuple[list[tuple[int, ...]], ...] = ()

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        self.seen[0].append(tuple(signals["train"]["logits"].shape))
        return super().__call__(parts, signals, ctx)


def test_no_chunk_is_larger_than_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "CHUNK_ELEMENTS", 4 * 3 * VOCAB)
    seen: list[tuple[int, ...]] = []
    step(_Watching(seen=(seen,)), roles(), Engine())
    scored = int((PARTS["train"].weight_T != 0).sum())
    # Forward, and again in the backward pass.
    assert seen and all(n <= 3 and v == VOCAB for n, v in seen) and sum(n for n, _ in seen) == 2 * scored


@pytest.mark.parametrize("objective", KLS, ids=str)
def test_a_student_that_is_its_teacher_stays(objective: Objective) -> None:
    loss, gradients, logs = step(objective, roles(teacher=0), Engine())
    assert abs(loss) < 1e-6 and logs["agreement"] == 1
    assert all(g.abs().max() < 1e-6 for g in gradients.values())


def test_a_wider_output_layer_of_the_teacher_is_cut() -> None:
    """Families fill up their output layers to different sizes for one vocabulary."""
    live = roles()
    plain = step(ForwardKL(), live, Engine())
    live["teacher"].model.resize_token_embeddings(VOCAB + 7, mean_resizing=False)  # type: ignore[operator]
    assert_equal(plain, step(ForwardKL(), live, Engine()))


def test_nothing_scored_is_nothing_lost() -> None:
    empty = {"train": replace(PARTS["train"], weight_T=torch.zeros_like(PARTS["train"].weight_T))}
    loss, gradients, logs = step(ForwardKL(), roles(), Engine(), empty)
    assert loss == 0 and logs == {} and all(g.abs().max() == 0 for g in gradients.values())


def test_a_state_is_what_the_output_layer_reads() -> None:
    live = roles(teacher=None)
    found = compute(live, PARTS, {"train": frozenset({"state", "logits"})}, Engine())["train"]
    scored = PARTS["train"].weight_T != 0
    torch.testing.assert_close(live["policy"].model.lm_head(found["state"])[scored], found["logits"][scored])  # type: ignore[operator]
    assert not found["state"][~scored].any()


@pytest.mark.parametrize(("beta", "limit", "scale"), [(1e-3, ForwardKL(), 1e3), (1 - 1e-3, ReverseKL(), 1e3)], ids=["to 0", "to 1"])
def test_gkd_turns_from_forward_to_reverse_kl(beta: float, limit: Objective, scale: float) -> None:
    live = roles()
    near, there = step(scale * GKD(beta=beta), live, Engine()), step(limit, live, Engine())
    assert near[0] == pytest.approx(there[0], rel=0.02)
    for end, other in ((0.0, ForwardKL()), (1.0, ReverseKL()), (None, SkewKL(alpha=0.0))):
        plain = ForwardKL() if end is None else other
        assert_equal(step(other if end is None else GKD(beta=end), live, Engine()), step(plain, live, Engine()))
