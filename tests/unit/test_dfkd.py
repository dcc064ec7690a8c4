"""Retaining while acquiring: the step within a step against its closed form, made-up text and its memory, and a run (S068)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import tempering as tp
from tempering import ahead, models
from tempering.ahead import Meta, standing
from tempering.config import Optimizer, Schedule, Training
from tempering.data.streams import Shuffled
from tempering.errors import UserError
from tempering.fit import Means, count_terms, fit, total
from tempering.layout import collate
from tempering.methods.objectives.dfkd import DFKD
from tempering.methods.objectives.forward_kl import ForwardKL
from tempering.methods.scopes.full import Full
from tempering.pseudo import Pseudo, differences, opening
from tempering.signals import Engine, Live
from tempering.types import Role, Run
from tests.toy import toy_llama, toy_rows

ALL: Any = Full()
H_ACQ = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
H_RET = torch.tensor([[1.0, -0.5], [-0.5, 4.0]], dtype=torch.float64)
AT = torch.tensor([0.5, -2.0], dtype=torch.float64)
ACQ, RET = (H_ACQ, torch.tensor([1.0, 0.0])), (H_RET, torch.tensor([0.0, 3.0]))


def slope(of: tuple[torch.Tensor, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Of the loss (x - c) H (x - c) / 2."""
    return of[0] @ (x - of[1])


def meta_gradient(rate: float, second: bool) -> torch.Tensor:
    p = torch.nn.Parameter(AT.clone())

    def backward(of: Any, logged: bool) -> float:
        x = p - of[1]
        (loss := x @ of[0] @ x / 2).backward()
        return float(loss.detach())

    with standing(Meta(rate, ACQ, second), [p], backward) as beside:
        backward(RET, False)
    x = AT - ACQ[1]
    assert beside == [pytest.approx(float(x @ H_ACQ @ x / 2))] and torch.equal(p.detach(), AT)
    assert p.grad is not None
    return p.grad


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.3])
def test_of_quadratic_losses_it_is_the_closed_form(rate: float) -> None:
    there = slope(RET, AT - rate * slope(ACQ, AT))
    expected = (torch.eye(2, dtype=torch.float64) - rate * H_ACQ) @ there + slope(ACQ, AT)
    torch.testing.assert_close(meta_gradient(rate, True), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(meta_gradient(rate, False), there + slope(ACQ, AT), rtol=1e-12, atol=1e-12)


def test_without_a_step_it_is_the_plain_sum_and_first_order_is_off_by_the_rate() -> None:
    plain = slope(ACQ, AT) + slope(RET, AT)
    assert torch.equal(meta_gradient(0.0, True), plain) and torch.equal(meta_gradient(0.0, False), plain)
    far = [float((meta_gradient(rate, True) - meta_gradient(rate, False)).norm()) / rate for rate in (1e-3, 1e-4)]
    expected = float((H_ACQ @ slope(RET, AT)).norm())
    assert far == [pytest.approx(expected, rel=0.02), pytest.approx(expected, rel=0.002)]


def live() -> dict[str, Live]:
    return {"policy": Live.attach(Role(toy_llama(), ALL)), "teacher": Live.attach(Role(toy_llama(1)))}


def gradient(roles: dict[str, Live], objective: Any, parts: Any) -> list[torch.Tensor]:
    params = list(roles["policy"].handle.params.values())  # type: ignore[union-attr]
    for p in params:
        p.grad = None
    total(roles, objective, [lambda: parts], count_terms(objective, [parts]), 0, Engine(), Means())
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in params]


def rows() -> list[Any]:
    made, others = toy_rows(4, ("train",)), toy_rows(8, ("train",))[4:]
    return [{**row, "memory": other["train"]} for row, other in zip(made, others, strict=True)]


def moved(meta: Meta | None, objective: Any, lr: float = 0.1, **settings: Any) -> dict[str, torch.Tensor]:
    mine = toy_llama()
    fit(
        {"policy": Role(mine, ALL), "teacher": Role(toy_llama(1))}, objective, Shuffled(rows(), 4), steps=1, say=lambda _: None, ahead=meta,
        optimizer=Optimizer(name="sgd", lr=lr, weight_decay=0.0), schedule=Schedule(name="constant", warmup=0),
        training=Training(precision="fp32", save_every=0, clip=None, **settings),
    )  # fmt: skip
    return {name: p.detach() for name, p in mine.named_parameters()}


def test_in_the_loop_a_rate_of_0_is_the_sum_and_a_step_is_what_the_formula_says() -> None:
    plain, zero = moved(None, ForwardKL() + DFKD()), moved(Meta(0.0, ForwardKL()), DFKD())
    for name in plain:
        torch.testing.assert_close(plain[name], zero[name], rtol=1e-5, atol=1e-6)
    parts, rate, roles = collate(rows()), 0.5, live()
    params = roles["policy"].handle.params  # type: ignore[union-attr]
    acquired = gradient(roles, ForwardKL(), parts)
    start = {name: p.detach().clone() for name, p in params.items()}
    with torch.no_grad():
        for p, g in zip(params.values(), acquired, strict=True):
            p.sub_(g, alpha=rate)
    kept = gradient(roles, DFKD(), parts)
    first = moved(Meta(rate, ForwardKL(), second=False), DFKD())
    for name, a, b in zip(params, acquired, kept, strict=True):
        torch.testing.assert_close(first[name], start[name] - 0.1 * (a + b), rtol=1e-5, atol=1e-6)
    assert max(float((first[name] - plain[name]).abs().max()) for name in plain) > 1e-4


def test_the_product_with_the_hessian_is_that_of_second_derivatives() -> None:
    """Against autograd twice, through the model itself."""
    parts, roles = collate(rows()), live()
    params = list(roles["policy"].handle.params.values())  # type: ignore[union-attr]
    vector: list[torch.Tensor | None] = [torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) for i, p in enumerate(params)]

    def backward(objective: Any, logged: bool) -> float:
        return total(roles, objective, [lambda: parts], count_terms(objective, [parts]), 0, Engine(), Means())

    with torch.no_grad():
        found = ahead.product(ForwardKL(), params, vector, backward)
    student, teacher = toy_llama(), toy_llama(1)
    loss, weights = torch.zeros(()), 0.0
    with sdpa_kernel(SDPBackend.MATH):
        for row in rows():
            (segment,) = row["train"]
            ids, weight = torch.tensor(segment.ids).long()[None], torch.tensor(segment.weight)[1:]
            ours, theirs = (model(input_ids=ids).logits[0, :-1].log_softmax(-1) for model in (student, teacher))
            loss = loss + (weight * (theirs.detach().exp() * (theirs.detach() - ours)).sum(-1)).sum()
            weights += float(weight.sum())
        mine = list(dict(student.named_parameters()).values())
        first = torch.autograd.grad(loss / weights, mine, create_graph=True)
        names = {name: v for name, v in zip(roles["policy"].handle.params, vector, strict=True)}  # type: ignore[union-attr]
        along = sum((g * names[name]).sum() for g, (name, _) in zip(first, student.named_parameters(), strict=True))  # type: ignore[operator]
        exact = torch.autograd.grad(along, mine)  # type: ignore[arg-type]
    by_name = dict(zip([name for name, _ in student.named_parameters()], exact, strict=True))
    size = float(torch.cat([g.flatten() for g in exact]).norm())
    off = float(torch.cat([(f - by_name[name]).flatten() for f, name in zip(found, names, strict=True)]).norm())  # type: ignore[operator]
    assert size > 0.1 and off < 0.02 * size


def test_micro_batches_change_nothing() -> None:
    whole, cut = (moved(Meta(0.5, ForwardKL()), DFKD(), micro_tokens=n) for n in (4096, 24))
    for name in whole:
        torch.testing.assert_close(whole[name], cut[name], rtol=1e-4, atol=1e-5)


def stream(**how: Any) -> tuple[Pseudo, Run]:
    tiny = models.load("builtin:tiny", say=lambda _: None)
    other = models.load("builtin:tiny", say=lambda _: None)
    with torch.no_grad():
        for p in other.model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    roles = {"policy": Live(other.model), "teacher": Live(tiny.model)}
    settings: dict[str, Any] = {"batch_size": 2, "candidates": 3, "memory": 3, "length": 6, **how}
    return Pseudo(tiny.tokenizer, **settings), Run(roles, 0, 0)


def texts(batch: Any) -> list[tuple[int, ...]]:
    return [tuple(batch.ids_T[batch.segment_T == s].tolist()) for s in range(batch.num_segments)]


def test_the_newest_are_those_that_differ_most_and_the_memory_holds_earlier_ones() -> None:
    made, run = stream()
    begin = opening(made.tokenizer)
    assert made.tokenizer.decode(begin) == "<|im_start|>user\n"
    written = made._written(run, 0)
    from tempering.pseudo import _row

    far = differences(run, [_row("train", one) for one in written], Engine())
    first = made.next(run)
    assert len(written) == 6 and texts(first["train"]) == texts(first["memory"])
    hardest = {tuple(written[i][0]) for i in far.argsort()[-2:]}
    assert set(texts(first["train"])) == hardest and all(ids[: len(begin)] == tuple(begin) for ids in texts(first["train"]))
    seen = set(texts(first["train"]))
    for _ in range(4):
        parts = made.next(run)
        assert set(texts(parts["memory"])) <= seen and set(texts(parts["memory"])) != set(texts(parts["train"]))
        seen |= set(texts(parts["train"]))
        assert len(made.kept) <= 3
    assert len(seen) > 3


def test_a_stream_goes_on_where_it_was_and_may_remember_nothing() -> None:
    made, run = stream(candidates=1)
    made.next(run)
    state = json.loads(json.dumps(made.state()))
    again, _ = stream(candidates=1)
    again.load(state)
    for _ in range(3):
        here, there = made.next(run), again.next(run)
        assert all(texts(here[part]) == texts(there[part]) for part in ("train", "memory"))
    none, _ = stream(memory=0)
    assert sorted(none.next(run)) == ["train"] and not none.kept


SMALL: dict[str, Any] = {"model": "builtin:tiny", "teacher": "builtin:tiny", "steps": 2, "batch_size": 2, "max_new_tokens": 6, "max_test": 4}
SMALL |= {"keep": "none", "precision": "fp32", "lr": 1e-3, "limit": 40}


@pytest.mark.parametrize("order", ["none", "first", "second"])
def test_a_run_from_end_to_end(order: str, tmp_path: Path) -> None:
    report = tp.run("dfkd", out=tmp_path / "run", again=True, **SMALL, **{"loss.order": order})
    assert report.ledger.probes
    found = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    # The student is the teacher: at first nothing differs, and what Adam makes of rounding comes after.
    assert len(found) == 2 and abs(found[0]["loss"]) < 1e-5 and found[0]["agreement"] == 1 and abs(found[0]["chosen_difference"]) < 1e-5


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dfkd: no teacher"):
        tp.run("dfkd", out=tmp_path / "run", **{**SMALL, "teacher": None})
