"""Blocks that share weights stage by stage, and the learngene that is left of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tempering import models
from tempering.errors import UserError
from tempering.methods.objectives.nll import NLL
from tempering.methods.reshapes.learngene import Learngene
from tempering.methods.scopes.tied import Tied
from tempering.proof.small import scratch, train
from tempering.reshaping.anatomy import taken
from tempering.reshaping.run import distance, reshape
from tempering.types import Policy
from tests.toy import toy_rows
from tests.toy_families import family


def blocks(model: Any) -> list[dict[str, torch.Tensor]]:
    return [dict(block) for block in taken(model).blocks]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def of(model: Any, **how: str) -> Any:
    return reshape(Policy(model, None), Learngene(**how), say=lambda _: None).model


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt-neox"])
def test_a_shared_weight_gets_the_gradient_of_every_block_that_has_it(name: str) -> None:
    ids = torch.randint(41, (2, 8), generator=torch.Generator().manual_seed(0))
    apart = of(family(name), of="2", to="2")
    handle = Tied(stages=(2,)).attach(of(apart, of="2", to="2"))
    for model in (apart, handle.model):
        model(input_ids=ids, labels=ids).loss.backward()
    assert distance(apart, handle.model) == 0
    alone = dict(apart.named_parameters())
    for key, p in handle.params.items():
        twin = key.replace(".layers.0.", ".layers.1.")
        wanted = alone[key].grad if twin == key else alone[key].grad + alone[twin].grad
        torch.testing.assert_close(p.grad, wanted, rtol=1e-4, atol=1e-7)
    with torch.no_grad():
        handle.bake()
        next(p for key, p in handle.model.named_parameters() if ".layers.1." in key).add_(1)
    first, second = blocks(handle.model)
    assert sum(not torch.equal(first[part], second[part]) for part in first) == 1


def test_a_descendant_of_the_same_stages_is_the_auxiliary_model_and_others_are_copies(tmp_path: Any) -> None:
    start = scratch(0, num_hidden_layers=5, hidden_size=32, intermediate_size=48)
    made = train(start, NLL(), toy_rows(8), steps=2, seed=0, lr=1e-2, batch_size=4, scope=Tied(stages=(2, 2, 1)))
    one, two, three, four, five = blocks(made.model)
    assert same(one, two) and same(three, four) and not same(one, three) and not same(one, dict(taken(start.model).blocks[0]))
    models.save(made, tmp_path / "made")
    opened = models.load(str(tmp_path / "made"), say=lambda _: None)
    assert distance(made.model, opened.model) == 0
    gene = of(opened.model, of="2,2,1")
    assert gene.config.num_hidden_layers == 3 and distance(of(gene, to="2,2,1"), opened.model) == 0
    deep = blocks(of(gene, to="1,3,2"))
    assert [same(block, wanted) for block, wanted in zip(deep, (one, three, three, three, five, five), strict=True)] == [True] * 6
    kept = sum(t.numel() for block in (one, three, five) for t in block.values())
    assert gene.num_parameters() == kept + sum(t.numel() for t in taken(gene).outer.values())


def test_stages_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="stages of none blocks; give sizes that add up to the model's 2"):
        Tied().attach(family("llama"))
    with pytest.raises(UserError, match="stages of 2,1 blocks"):
        Tied(stages=(2, 1)).attach(family("llama"))
    with pytest.raises(UserError, match=r"--of 2,1 --to 1,1: the model has 2 blocks"):
        of(family("llama"), of="2,1")
    with pytest.raises(UserError, match="--to 1,x: give whole numbers"):
        of(family("llama"), to="1,x")
