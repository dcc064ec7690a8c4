"""Mango's operator: identity where nothing grows, the same function where all widths double, linear in the smaller model, as large as said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tempering.errors import UserError
from tempering.reshaping.anatomy import taken
from tempering.reshaping.multilinear import Cores, Grown, larger, tiled, tiles_of
from tempering.reshaping.run import distance
from tests.toy_families import FAMILIES
from tests.unit.test_reshaping import differences, loud

every_family = pytest.mark.parametrize("name", FAMILIES)


def grown(small: Any, wider: int = 1, layers: int | None = None, **how: Any) -> Any:
    made = larger(small, wider, layers or small.config.num_hidden_layers)
    return Grown(small, **how).attach(made).bake()


@every_family
def test_cores_that_change_no_size_give_the_model_itself(name: str) -> None:
    small = loud(name)
    assert differences(grown(small), small) == []
    noisy = grown(small, noise=0.1)
    assert differences(noisy, small), "with noise they do not"


@every_family
def test_twice_as_wide_is_the_same_function(name: str) -> None:
    small = loud(name)
    made = grown(small, wider=2)
    assert made.config.hidden_size == 2 * small.config.hidden_size and made.config.num_attention_heads == 2 * small.config.num_attention_heads
    if name != "gpt-neox":
        # There queries, keys and values are one matrix, head by head, which tiles cut through.
        assert distance(small, made) < 1e-3


def test_new_blocks_are_those_of_the_same_depth() -> None:
    small = loud("llama")
    blocks, made = taken(small).blocks, taken(grown(small, layers=2 * small.config.num_hidden_layers)).blocks
    for i, block in enumerate(made):
        assert all(torch.equal(block[key], blocks[i // 2][key]) for key in block)
    with pytest.raises(UserError, match="cannot grow to fewer"):
        larger(small, 1, small.config.num_hidden_layers - 1)


def cores(rank: int = 2) -> tuple[Cores, Any, Any]:
    small = loud("llama")
    big = larger(small, 2, 3)
    return Cores(taken(small), taken(big), rank, 0.3, 7), small, big


def test_rank_one_is_a_kronecker_product() -> None:
    made, small, big = cores(rank=1)
    b, o, depth, i = (made.core(name)[0, :, :, 0].detach() for name in ("b", "o", "l", "i"))
    whole = torch.einsum("bc,op,lm,iq,boil->cpqm", b, o, depth, i, tiled(taken(small)))
    with torch.no_grad():
        for at, layer in ((0, 0), (3, 2), (len(b) - 1, 1)):
            torch.testing.assert_close(made.tile(at, layer), whole[at, :, :, layer], rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for name, p in made.named_parameters() if name != "width") == sum(x.numel() for x in (b, o, depth, i))
    name, (rows, columns) = list(tiles_of(taken(big)).items())[-1]
    with torch.no_grad():
        matrix = made.matrix(name, 1, taken(big).blocks[1][name].shape)
    assert matrix.shape == taken(big).blocks[1][name].shape and rows * columns >= 1


def test_a_ring_is_the_sum_over_its_ranks_and_linear_in_the_small_model() -> None:
    made, small, _ = cores(rank=2)
    d = made.weights.shape[1]
    with torch.no_grad():
        total = sum(
            torch.einsum(
                "b,op,l,iq,boil->pq",
                made.b[r, :, 2, s], made.o[s, :, :, t], made.l[t, :, 1, u], made.i[u, :, :, r], made.weights,
            )
            for r in range(2) for s in range(2) for t in range(2) for u in range(2)
        )  # fmt: skip
        whole = made.tile(2, 1)
        torch.testing.assert_close(whole, total, rtol=1e-4, atol=1e-5)
        other = torch.randn_like(made.weights)
        kept, made.weights = made.weights, made.weights + 2 * other
        both = made.tile(2, 1)
        made.weights = other
        torch.testing.assert_close(both, whole + 2 * made.tile(2, 1), rtol=1e-4, atol=1e-4)
        made.weights = kept
    sizes = {"b": made.b.shape, "o": made.o.shape, "l": made.l.shape, "i": made.i.shape}
    count = len(made.weights)
    assert sizes == {"b": (2, count, count, 2), "o": (2, d, 2 * d, 2), "l": (2, small.config.num_hidden_layers, 3, 2), "i": (2, d, 2 * d, 2)}


def test_only_the_cores_train_and_every_one_of_them_does() -> None:
    small = loud("llama")
    before = {name: p.clone() for name, p in small.state_dict().items()}
    handle = Grown(small, rank=2, noise=0.1).attach(larger(small, 2, 3))
    ids = torch.tensor([[3, 5, 7, 11, 13]])
    handle.model(input_ids=ids, labels=ids).loss.backward()
    assert {name for name, p in handle.model.named_parameters() if p.grad is not None} == set(handle.params)
    assert all(float(p.grad.abs().sum()) > 0 for p in handle.params.values())
    assert all(torch.equal(p, before[name]) for name, p in small.state_dict().items())
    with torch.no_grad():
        first = handle.model(input_ids=ids).logits
        for p in handle.params.values():
            p.add_(0.1)
        moved = handle.model(input_ids=ids).logits
        with handle.off() as reference:
            assert torch.equal(reference(input_ids=ids).logits, first) and not torch.equal(moved, first)
        baked = handle.bake()
        torch.testing.assert_close(baked(input_ids=ids).logits, moved)
    assert "cores" not in dict(baked.named_children()) and all(p.requires_grad for p in baked.parameters())


def test_a_model_of_other_tiles_is_refused() -> None:
    small = loud("llama")
    body = taken(small)
    wide = replace(body, blocks=tuple({**b, "mlp.up_proj.weight": torch.zeros(10 * body.sizes["hidden"], 3)} for b in body.blocks))
    with pytest.raises(UserError, match="must be alike"):
        Cores(body, wide, 1, 0.0, 0)
