"""Blocks that long passes compute again: as many as it takes and no more, the same bits, and everything as it was afterwards."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from tempering.config import Optimizer, Training
from tempering.data.streams import Shuffled
from tempering.errors import UserError
from tempering.fit import Means, count_terms, fit, total
from tempering.layout import collate
from tempering.methods.objectives.dpo import DPO
from tempering.methods.objectives.nll import NLL
from tempering.methods.scopes.full import Full
from tempering.methods.scopes.lora import LoRA
from tempering.models.recompute import blocks, recomputed, recomputing
from tempering.signals import Engine, Live, engine_for
from tempering.types import Objective, Role, Scope
from tests.toy import toy_llama, toy_rows

BLOCKS = 4


@given(st.integers(1, 100), st.integers(1, 10_000), st.integers(1, 10_000))
def test_the_least_number_of_blocks_that_leaves_no_more_than_is_allowed(number: int, tokens: int, kept: int) -> None:
    again = recomputed(number, tokens, kept)
    assert (number - again) * tokens <= number * kept
    assert again == 0 or (number - again + 1) * tokens > number * kept


def test_nothing_is_set_and_nothing_is_long() -> None:
    assert recomputed(30, 10_000, 0) == recomputed(30, 512, 512) == 0 and recomputed(30, 513, 512) == 1


def gradients(
    scope: Scope, objective: Objective, over: int, *, layout: Any = "segments", dtype: torch.dtype = torch.float32
) -> tuple[dict[str, Tensor], list[int]]:
    """Gradients of one micro-batch, and how often each block went forward."""
    model = toy_llama(layers=BLOCKS)
    calls: Counter[int] = Counter()
    for number, block in enumerate(blocks(model)):
        block.mlp.register_forward_pre_hook(lambda *_, number=number: calls.update([number]))  # type: ignore[union-attr]
    torch.manual_seed(0)
    live = {"policy": Live.attach(Role(model, scope))}
    live["policy"].handle.keep_reference()  # type: ignore[union-attr]
    live["policy"].model.train()
    parts = collate(toy_rows(4, tuple(objective.needs)))
    engine = Engine(layout, dtype, recompute_over=over)
    # A first pass finds out what the model can do.
    for _ in range(2):
        torch.manual_seed(1)
        calls.clear()
        model.zero_grad()
        total(live, objective, [lambda: parts], count_terms(objective, [parts]), 0, engine, Means())
    found = {name: p.grad for name, p in live["policy"].handle.params.items() if p.grad is not None}  # type: ignore[union-attr]
    assert found and not any(block.gradient_checkpointing for block in blocks(model))
    return found, [calls[number] for number in range(BLOCKS)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("layout", ["segments", "packed", "padded"])
@pytest.mark.parametrize("scope", [Full(), LoRA(r=4), LoRA(r=4, dropout=0.3)], ids=["full", "lora", "dropout"])
def test_gradients_are_the_same_to_the_bit(scope: Scope, layout: Any, dtype: torch.dtype) -> None:
    kept, once = gradients(scope, NLL(), 0, layout=layout, dtype=dtype)
    made, twice = gradients(scope, NLL(), 20, layout=layout, dtype=dtype)
    assert kept.keys() == made.keys() and all(torch.equal(kept[name], made[name]) for name in kept)
    assert once == [1] * BLOCKS
    # The first blocks twice, the last one once: rows of 4 segments have over 27 and, padded, up to 64 tokens.
    assert twice == sorted(twice, reverse=True) and set(twice) == {1, 2}


def test_so_are_those_of_pairs_whose_reference_is_computed_beside_them() -> None:
    kept, once = gradients(Full(), DPO(), 0)
    made, twice = gradients(Full(), DPO(), 50)
    assert all(torch.equal(kept[name], made[name]) for name in kept)
    # The policy's passes and those of its copy, which has no gradient and computes nothing again.
    assert once == [2] * BLOCKS and set(twice) == {2, 3}


class Sizes:
    """Bytes that autograd keeps."""

    def __init__(self) -> None:
        self.storages: dict[int, Tensor] = {}

    def keep(self, tensor: Tensor) -> Tensor:
        self.storages[tensor.untyped_storage()._cdata] = tensor
        return tensor

    def total(self, without: nn.Module) -> int:
        known = {p.untyped_storage()._cdata for p in without.parameters()}
        return sum(t.untyped_storage().nbytes() for place, t in self.storages.items() if place not in known)


def kept(tokens: int, over: int) -> int:
    model, sizes = toy_llama(layers=BLOCKS).train(), Sizes()
    ids = torch.arange(tokens)[None] % 50
    with torch.autograd.graph.saved_tensors_hooks(sizes.keep, lambda tensor: tensor), recomputing(model, tokens, over):
        model.model(input_ids=ids, use_cache=False)
    return sizes.total(model)


def test_a_pass_keeps_no_more_than_one_of_the_tokens_that_are_allowed_does() -> None:
    """And the inputs of its blocks; half of the tokens, half of the blocks."""
    inputs = 4 * 64 * 32 * BLOCKS
    assert kept(64, 64) == kept(64, 0) > 1.8 * kept(64, 32)
    assert kept(64, 32) < kept(32, 0) + inputs
    assert kept(64, 16) < kept(64, 32) < kept(64, 48) < kept(64, 0)


class Casts(TorchDispatchMode):
    """Matrices that were made in half precision of others."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[StorageWeakRef] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and out.dtype == torch.bfloat16 and out.ndim == 2:
            self.seen.append(StorageWeakRef(out.untyped_storage()))
        return out

    @property
    def alive(self) -> int:
        return sum(not storage.expired() for storage in self.seen)


@pytest.mark.parametrize("over, blocks_kept", [(0, BLOCKS), (48, 3), (16, 1)])
def test_in_half_precision_blocks_computed_again_leave_no_casts_of_their_weights(over: int, blocks_kept: int) -> None:
    """Autocast would keep them until it ends, which is after the head."""
    model, ids = toy_llama(layers=BLOCKS).train(), torch.arange(64)[None] % 50
    with Casts() as casts, Engine("segments", torch.bfloat16).autocast(), recomputing(model, 64, over):
        out = model.model(input_ids=ids, use_cache=False).last_hidden_state
        # Four of attention and three of the MLP.
        assert len(casts.seen) == 7 * BLOCKS and casts.alive == 7 * blocks_kept
        out.sum().backward()
        assert len(casts.seen) == 7 * (2 * BLOCKS - blocks_kept) and all(p.grad is not None for p in model.model.parameters())


def test_without_gradient_and_in_evaluation_nothing_is_switched() -> None:
    model = toy_llama(layers=BLOCKS)
    with recomputing(model, 64, 8):
        assert not any(block.gradient_checkpointing for block in blocks(model))
    model.train()
    with torch.no_grad(), recomputing(model, 64, 8):
        assert not any(block.gradient_checkpointing for block in blocks(model))
    with recomputing(model, 64, 16):
        assert [block.gradient_checkpointing for block in blocks(model)] == [True, True, True, False]


def test_a_pass_that_fails_leaves_the_blocks_as_they_were() -> None:
    model = toy_llama(layers=BLOCKS).train()
    with pytest.raises(KeyError), recomputing(model, 64, 16):
        raise KeyError
    assert not any(block.gradient_checkpointing for block in blocks(model))


def test_with_checkpointing_all_blocks_stay_recomputed() -> None:
    model = toy_llama(layers=BLOCKS).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with recomputing(model, 64, 16):
        pass
    assert all(block.gradient_checkpointing for block in blocks(model))


def test_a_run_ends_with_the_same_weights() -> None:
    ends = []
    for over in (0, 12):
        model = toy_llama(layers=BLOCKS)
        training = Training(precision="fp32", recompute_over=over, micro_tokens=24)
        assert engine_for(training).recompute_over == over
        fit({"policy": Role(model, Full())}, NLL(), Shuffled(toy_rows(8), 4), steps=3, optimizer=Optimizer(lr=1e-2), training=training,
            say=lambda _: None)  # fmt: skip
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_model_without_blocks_is_refused_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempering.fit.blocks", lambda model: [])
    with pytest.raises(UserError, match=r"^--recompute-over: a LlamaForCausalLM has no blocks that can be computed again; run it without$"):
        fit({"policy": Role(toy_llama(), Full())}, NLL(), Shuffled(toy_rows(4), 4), steps=1, training=Training(recompute_over=8), say=lambda _: None)
