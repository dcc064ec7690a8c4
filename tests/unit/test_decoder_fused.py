"""Fused blocks against the ones they replace, and which blocks stay as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tempering.sampling.decoder import Decoder
from tempering.sampling.fused import FusedAttention, FusedFeed, fuse, rotated
from tempering.sampling.types import Request
from tempering.sampling.weights import decoding_copy
from tempering.types import Policy
from tests.conftest import make_llama
from tests.unit.test_decoder import alone, ids, policy, run, tiny


def kinds(model: nn.Module) -> set[type]:
    return {type(m) for m in model.modules()} & {FusedAttention, FusedFeed}


def test_rotation_is_transformers_own() -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    q, k = torch.randn(2, 1, 5, 3, 8, generator=torch.Generator().manual_seed(0))
    angle = torch.linspace(0.1, 9, 20).view(1, 5, 4).repeat(1, 1, 2)
    want = apply_rotary_pos_emb(q, k, angle.cos(), angle.sin(), unsqueeze_dim=2)
    for x, y in zip((q, k), want, strict=True):
        torch.testing.assert_close(rotated(x, angle.cos(), angle.sin()), y, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("kind", "fused"),
    [
        ("qwen3", {FusedFeed}),  # its queries and keys have norms
        ("mistral", {FusedFeed}),  # its attention has a window
        ("gemma2", set()),  # soft-capping, and another activation
        ("gpt2", set()),
        ("bloom", set()),
    ],
)
def test_only_blocks_of_llama_s_make_are_fused_and_logits_stay(kind: str, fused: set[type]) -> None:
    model = tiny(kind)
    made = decoding_copy(model, torch.float32)
    assert kinds(made) == fused
    x = torch.arange(5, 17)[None]
    with torch.no_grad():
        torch.testing.assert_close(made(x).logits, model(x).logits, atol=1e-4, rtol=0)


def test_a_block_whose_forward_differs_stays_though_it_looks_alike() -> None:
    model = make_llama()
    block: Any = type(model.model.layers[0].mlp)
    odd = type("Odd", (block,), {"forward": lambda self, x: 2 * block.forward(self, x)})
    for layer in model.model.layers:
        layer.mlp.__class__ = odd
    fuse(model)
    assert kinds(model) == {FusedAttention}


def test_rows_that_come_and_go_get_the_plain_twin_s_tokens() -> None:
    p = policy()
    decoder = Decoder(p, max_rows=3, dtype=torch.float32)
    assert kinds(decoder._models["policy"]) == {FusedAttention, FusedFeed}
    common = list(range(20, 33))
    prompts = [[9] * 3, common, [*common, 5, 6], [7] * 30, [*common, 5], [8] * 17]
    asked = [Request(tuple(prompt), key=i, max_new_tokens=3 + 4 * i, temperature=1.0) for i, prompt in enumerate(prompts)]
    tickets = [decoder.submit(request) for request in asked]
    found = run(decoder)
    for ticket, request in zip(tickets, asked, strict=True):
        twin = alone(p, request)
        assert ids(found[ticket]) == ids(twin)
        assert [t.logp for t in found[ticket]] == pytest.approx([t.logp for t in twin], abs=1e-5)


def test_a_model_with_an_adapter_stays_as_it_is() -> None:
    from peft import LoraConfig, get_peft_model

    model: Any = get_peft_model(make_llama(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    made = decoding_copy(model, torch.float32)
    assert kinds(made) == set()
    x = torch.arange(5, 17)[None]
    with torch.no_grad():
        torch.testing.assert_close(made(x).logits, model(x).logits, atol=1e-5, rtol=0)
    assert Decoder(Policy(model, None), dtype=torch.float32).batched
