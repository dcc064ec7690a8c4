"""Shares by depth between a tuned model and its base: the ends to the bit, the mean, the gradient, what is left in the end, and the recipe."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tempering import models
from tempering.config import Budget, Optimizer, Training
from tempering.data.streams import Shuffled
from tempering.errors import UserError
from tempering.experiment import Options, execute
from tempering.fit import fit
from tempering.index import load_recipe
from tempering.methods.objectives.nll import NLL
from tempering.methods.scopes.averaged import Averaged
from tempering.methods.scopes.full import Full
from tempering.models.averages import AveragedHandle
from tempering.types import Policy, Role
from tests.toy import toy_llama, toy_rows

GROUPS = 2
FULL: Any = Full()


def parents(tied: bool = False) -> tuple[nn.Module, nn.Module]:
    """A tuned model and its base; all weights differ."""
    base = toy_llama()
    if tied:
        base.config.tie_word_embeddings = True  # type: ignore[union-attr]
        base.lm_head.weight = base.model.embed_tokens.weight  # type: ignore[union-attr]
    tuned = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in tuned.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return tuned, base


def attached(tied: bool = False, **settings: Any) -> tuple[AveragedHandle, dict[str, Any], dict[str, Any]]:
    """A handle, and the weights of both parents by name."""
    tuned, base = parents(tied)
    weights = [{name: p.detach().clone() for name, p in model.named_parameters()} for model in (tuned, base)]
    return Averaged(base="base", **{"groups": GROUPS, **settings}).between(tuned, base), weights[0], weights[1]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(1, 9)[None]).logits


@pytest.mark.parametrize("tied", [False, True])
def test_shares_of_nothing_and_of_all_are_a_parent_to_the_bit(tied: bool) -> None:
    for mean in (0.0, 1.0):
        handle, tuned, base = attached(tied, mean=mean, groups=1)
        wanted = base if mean else tuned
        before = logits(handle.model)
        baked = handle.bake()
        assert {name: p.tolist() for name, p in baked.named_parameters()} == {name: p.tolist() for name, p in wanted.items()}
        assert torch.equal(logits(baked), before)


@pytest.mark.parametrize("tied", [False, True])
def test_equal_numbers_are_the_plain_average_and_leave_plain_weights(tied: bool) -> None:
    handle, tuned, base = attached(tied, mean=0.25)
    assert list(handle.params) == ["averaged.m"]
    assert [name for name, p in handle.model.named_parameters() if p.requires_grad] == ["averaged.m"]
    before = logits(handle.model)
    with handle.off() as off:
        start = logits(off)
    baked = handle.bake()
    assert list(dict(baked.named_parameters())) == list(tuned)
    for name, p in baked.named_parameters():
        torch.testing.assert_close(p.detach(), 0.25 * base[name] + 0.75 * tuned[name], rtol=0, atol=1e-7)
    assert torch.equal(logits(baked), before)
    again, _ = parents(tied)
    assert torch.equal(logits(again), start)
    assert handle.bake() is baked


def test_shares_are_the_mean_on_average_and_the_gradient_is_that_of_the_weights() -> None:
    handle, tuned, base = attached(mean=0.3)
    with torch.no_grad():
        handle.shares.m.copy_(torch.tensor([0.7, -1.1]))
    raised = [1 / (1 + torch.exp(torch.tensor(-m))) + 0.2 for m in (0.7, -1.1)]
    with torch.no_grad():
        a = [float(handle.shares(i)) for i in range(2)]
    assert a == pytest.approx([float(0.6 * one / (raised[0] + raised[1])) for one in raised])
    assert sum(a) / 2 == pytest.approx(0.3)

    ids = torch.arange(1, 9)[None]
    handle.model(input_ids=ids, labels=ids).loss.backward()
    found = handle.shares.m.grad

    plain: Any = parents()[0]
    layers = plain.config.num_hidden_layers
    group = {name: int(name.split("layers.")[1].split(".")[0]) * GROUPS // layers if "layers." in name else None for name in tuned}
    with torch.no_grad():
        for name, p in plain.named_parameters():
            share = 0.3 if group[name] is None else a[group[name]]  # type: ignore[index]
            p.copy_(share * base[name] + (1 - share) * tuned[name])
    plain(input_ids=ids, labels=ids).loss.backward()
    slope = [sum(float((p.grad * (base[n] - tuned[n])).sum()) for n, p in plain.named_parameters() if group[n] == k) for k in range(2)]  # type: ignore[operator]
    m = torch.tensor([0.7, -1.1], requires_grad=True)
    shares = 0.6 * (torch.sigmoid(m) + 0.2) / (torch.sigmoid(m) + 0.2).sum()
    (shares * torch.tensor(slope)).sum().backward()
    torch.testing.assert_close(found, m.grad, rtol=1e-4, atol=1e-7)


def test_training_moves_back_the_blocks_that_were_broken() -> None:
    rows = toy_rows(6, seed=4)
    quiet: dict[str, Any] = {"training": Training(save_every=0, precision="fp32"), "say": lambda _: None}
    base = toy_llama()
    fit({"policy": Role(base, FULL)}, NLL(), Shuffled(rows, 6), steps=40, optimizer=Optimizer(lr=5e-3), **quiet)
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        for name, p in tuned.named_parameters():
            if "layers.0." in name and p.ndim == 2:
                p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))

    class To(Averaged):
        def attach(self, model: nn.Module) -> AveragedHandle:
            return self.between(model, base)

    scope: Any = To(base="base", groups=2, mean=0.4)
    done = fit({"policy": Role(tuned, scope)}, NLL(), Shuffled(rows, 6), steps=40, optimizer=Optimizer(lr=5e-2), **quiet)
    handle: Any = done.roles["policy"].handle
    with torch.no_grad():
        first, second = (float(handle.shares(i)) for i in range(2))
    assert first > 0.5 > 0.3 > second


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"could become 2\.02; raise eps"):
        Averaged(base="b", mean=0.9, groups=3, eps=0.2)
    with pytest.raises(UserError, match=r"name the model to go back to with --scope\.base"):
        Averaged().attach(toy_llama())
    tuned, base = parents()
    with pytest.raises(UserError, match="fewer than the 9 groups"):
        Averaged(base="b", groups=9, mean=0.1).between(tuned, base)
    del base.model.layers[-1]  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"b has no weight model\.layers"):
        Averaged(base="b", groups=2).between(tuned, base)


def test_a_recipe_runs_it_and_saves_a_plain_model(tmp_path: Path) -> None:
    start = models.load("builtin:tiny", say=lambda _: None)
    with torch.no_grad():
        for p in start.model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    models.save(Policy(start.model, start.tokenizer, name="tuned"), tmp_path / "tuned")
    values = {
        "model": str(tmp_path / "tuned"), "data": "builtin:demo", "limit": 12, "scope": Averaged(base="builtin:tiny"),
        "training": Training(steps=2, batch_size=4, precision="fp32", save_every=1), "budget": Budget(keep="none"), "optimizer": Optimizer(lr=0.1),
    }  # fmt: skip
    report = execute(load_recipe("sft"), values, Options(out=tmp_path / "run"))
    made = models.load(str(report.folder / "model"), say=lambda _: None).model
    theirs = models.load("builtin:tiny", say=lambda _: None).model
    head = "model.embed_tokens.weight"
    wanted = 0.2 * dict(theirs.named_parameters())[head] + 0.8 * dict(start.model.named_parameters())[head]
    torch.testing.assert_close(dict(made.named_parameters())[head], wanted, rtol=0, atol=1e-6)
