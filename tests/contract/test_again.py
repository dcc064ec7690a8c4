"""Outputs that are made again for the backward pass: the same bits, less kept, and nothing taken for an output that is none any more."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from contextvars import ContextVar
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tempering import fused
from tempering.fit import Means, count_terms, total
from tempering.layout import collate
from tempering.methods.objectives.nll import NLL
from tempering.methods.scopes.full import Full
from tempering.models import again as module
from tempering.models.again import again, made_by
from tempering.models.lighter import lighter
from tempering.signals import Engine, Live
from tempering.types import Role, Segment
from tests.contract.test_lighter import family, lora
from tests.toy import VOCAB, toy_llama


def grads(model: nn.Module, *, half: bool = False, checkpointing: bool = False) -> dict[str, Tensor]:
    ids = torch.randint(3, VOCAB, (2, 9), generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    if checkpointing:
        model.train().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    with lighter(model):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2"])
def test_the_gradients_are_the_same_to_the_bit(name: str, half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = family(name)
    made = grads(model, half=half)
    monkeypatch.setattr(module, "_keep", lambda tensor: tensor)
    kept = grads(model, half=half)
    assert made.keys() == kept.keys()
    assert all(torch.equal(made[key], kept[key]) for key in kept)


def test_so_are_an_adapter_s_and_those_of_recomputed_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    adapted, plain = lora(toy_llama()), toy_llama()
    made = grads(adapted), grads(plain), grads(copy.deepcopy(plain), checkpointing=True)
    monkeypatch.setattr(module, "_keep", lambda tensor: tensor)
    for mine, kept in zip(made, (grads(adapted), grads(plain), grads(plain)), strict=True):
        assert mine.keys() == kept.keys() and all(torch.equal(mine[key], kept[key]) for key in kept)


def test_gradients_that_go_straight_to_a_parameter_still_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The output layer's and the embeddings' are added to what is there (tied weights: both to one): through hooks a parameter would come back as
    another tensor, and what is added to that one is lost."""
    model = toy_llama()
    model.lm_head.weight = model.model.embed_tokens.weight
    ids = np.arange(3, 12, dtype=np.int32)
    parts = collate([{"train": (Segment(ids, np.ones(9, np.float32)),)}, {"train": (Segment(ids[::2].copy(), np.ones(5, np.float32)),)}])
    live = {"policy": Live.attach(Role(model, Full()))}
    found = []
    for straight in (True, False):
        model.zero_grad()
        with monkeypatch.context() as patch:
            if not straight:
                patch.setattr(fused, "_ACCUMULATE", ContextVar("off", default=False))
                patch.setattr(fused, "accumulating", lambda on: nullcontext())
            total(live, NLL(), [lambda: parts], count_terms(NLL(), [parts]), 0, Engine(), Means())
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert all(torch.allclose(found[0][name], grad, atol=1e-7) for name, grad in found[1].items())
    assert len(found[0]) == len(found[1]) == len(list(model.parameters()))


def test_what_is_kept_is_less_by_the_norms_and_the_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    keep, kept = module._keep, {}

    def counted(tensor: Tensor) -> Any:
        found = keep(tensor)
        # Held, so that no storage's place is given to another one.
        kept.setdefault(isinstance(found, Tensor), {})[tensor.untyped_storage()._cdata] = tensor
        return found

    monkeypatch.setattr(module, "_keep", counted)
    grads(family("llama"))
    tokens, blocks, width, inner = 2 * 9, 2, 32, 48
    assert sum(t.untyped_storage().nbytes() for t in kept[False].values()) == 4 * tokens * (blocks * (2 * width + inner) + width)
    # Nobody else keeps them.
    assert not kept[False].keys() & kept[True].keys()


def doubled(x: Tensor, calls: list[int]) -> Tensor:
    """2x, made again where it is kept."""
    plain = x.detach()

    def make() -> Tensor:
        calls.append(1)
        return 2 * plain

    return made_by(2 * x, make)


def test_it_is_made_once_for_all_who_keep_it_and_again_for_a_second_backward_pass() -> None:
    x, calls = torch.arange(6.0).view(2, 3).requires_grad_(), []
    with again():
        y = doubled(x, calls)
        loss = (y.square() + y.view(3, 2).exp().view(2, 3) * y).sum()
    y_plain = 2 * x.detach()
    want = 2 * (2 * y_plain + y_plain.exp() * (1 + y_plain))
    del y
    for times in (1, 2):
        (grad,) = torch.autograd.grad(loss, x, retain_graph=True)
        assert torch.allclose(grad, want) and len(calls) == times


@pytest.mark.parametrize("change", ["part", "order", "written"])
def test_what_is_not_the_output_any_more_is_kept(change: str) -> None:
    x, calls = torch.arange(4.0).view(2, 2).requires_grad_(), []
    with again():
        y = doubled(x, calls)
        if change == "written":
            y.add_(1)
        read = {"part": y[:1], "order": y.T, "written": y}[change]
        read.square().sum().backward()
    want = {"part": 8 * x * torch.tensor([[1.0], [0.0]]), "order": 8 * x, "written": 4 * (2 * x + 1)}[change]
    assert x.grad is not None and torch.equal(x.grad, want.detach()) and not calls


def test_a_place_that_another_tensor_has_now_is_not_mistaken() -> None:
    calls: list[int] = []
    with again():
        for _ in range(50):
            x = torch.randn(8, requires_grad=True)
            doubled(x, calls).sum()
            # As large as the output that is gone, so the allocator gives it that place.
            z = x + 1
            z.square().sum().backward()
            assert x.grad is not None and torch.equal(x.grad, 2 * (x.detach() + 1))
    assert not calls and not (module._OUTPUTS.get() or {})


def test_without_gradients_and_outside_nothing_is_noted() -> None:
    x = torch.ones(2, requires_grad=True)
    assert made_by(x, lambda: x) is x
    with again():
        with torch.no_grad():
            made_by(2 * x, lambda: x)
        assert module._OUTPUTS.get() == {}
