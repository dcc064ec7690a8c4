"""Fused blocks against the ones they replace, and which blocks stay as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tempering.methods.decodes.mixture import Mixture
from tempering.sampling.decoder import Decoder
from tempering.sampling.fused import FusedAttention, FusedFeed, fuse, rotated
from tempering.sampling.passes import Alone
from tempering.sampling.types import Request, Token
from tempering.sampling.weights import PackedLinear, can_pack, decoding_copy, for_decoding
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


def adapted(model: Any, **options: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(**{"r": 2, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False, **options})).eval()


@pytest.mark.parametrize("options", [{}, {"use_dora": True}])
def test_adapters_are_folded_into_the_copy_and_stay_in_the_model(options: dict[str, Any]) -> None:
    model = adapted(make_llama(), **options)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    made = decoding_copy(model, torch.float32)
    assert kinds(made) == {FusedAttention, FusedFeed} and type(made) is type(model.get_base_model())
    x = torch.arange(5, 17)[None]
    with torch.no_grad():
        plain = model(x).logits
        torch.testing.assert_close(made(x).logits, plain, atol=1e-4, rtol=0)
        with model.disable_adapter():
            assert (model(x).logits - plain).abs().max() > 0.1
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    p = Policy(model, None)
    decoder = Decoder(p, max_rows=2, dtype=torch.float32)
    asked = [Request(prompt, key=i, max_new_tokens=6, temperature=1.0) for i, prompt in enumerate(((5, 6, 7), (9, 10, 11, 12), (7,) * 20))]
    tickets = [decoder.submit(request) for request in asked]
    found = run(decoder)
    assert decoder.batched and [ids(found[ticket]) for ticket in tickets] == [ids(alone(p, request)) for request in asked]


def test_what_is_more_than_lora_on_linear_layers_stays_as_it_is() -> None:
    x = torch.arange(5, 17)[None]
    # a saved layer, an adapted embedding, a bias that the layer itself has not
    for options in ({"modules_to_save": ["lm_head"]}, {"target_modules": ["q_proj", "embed_tokens"]}, {"lora_bias": True}):
        model = adapted(make_llama(), **options)
        made = decoding_copy(model, torch.float32)
        assert type(made) is type(model) and FusedAttention not in kinds(made)
        with torch.no_grad():
            torch.testing.assert_close(made(x).logits, model(x).logits, atol=1e-5, rtol=0)
    model = adapted(make_llama())
    assert kinds(decoding_copy(model, torch.float32)) == {FusedAttention, FusedFeed}
    with model.disable_adapter(), torch.no_grad():
        torch.testing.assert_close(decoding_copy(model, torch.float32)(x).logits, model(x).logits, atol=1e-5, rtol=0)


def test_who_samples_only_keeps_no_weight_of_the_model_but_what_it_cannot_lay_out_anew() -> None:
    import gc
    import weakref

    p = policy()
    asked = [Request((5, 6, 7), max_new_tokens=8, temperature=1.0), Request(tuple(range(9, 30)), max_new_tokens=4)]
    want = [ids(alone(p, request)) for request in asked]
    fast = for_decoding(p, torch.float32)
    assert fast.tokenizer is p.tokenizer and Decoder(fast).batched
    old = [weakref.ref(m) for m in p.model.modules() if isinstance(m, nn.Linear)]
    del p
    gc.collect()
    assert all(ref() is None for ref in old)
    decoder = Decoder(fast, max_rows=2)
    tickets = [decoder.submit(request) for request in asked]
    found = run(decoder)
    assert [ids(found[ticket]) for ticket in tickets] == want


def test_blocks_are_tried_once_for_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from tempering.sampling import fused

    model, calls, agree = make_llama(), list[str](), fused._agree
    monkeypatch.setattr(fused, "_agree", lambda block, made: (calls.append(type(made).__name__), agree(block, made))[1])
    for _ in range(2):
        assert kinds(decoding_copy(model, torch.float32)) == {FusedAttention, FusedFeed}
    assert calls == ["FusedAttention", "FusedFeed"]


def test_fused_blocks_go_with_a_decode_chain() -> None:
    p = policy()
    p.decode, p.roles = (Mixture(0.3),), {"other": make_llama(seed=1)}
    asked = [Request(prompt, key=i, max_new_tokens=9, temperature=1.0) for i, prompt in enumerate(((5, 6, 7), (9, 10), (7,) * 20))]
    want = [ids(alone_with_chain(p, request)) for request in asked]
    for decoder in (Decoder(p, max_rows=2, dtype=torch.float32), Decoder(for_decoding(p, torch.float32), max_rows=2)):
        assert all(kinds(model) == {FusedAttention, FusedFeed} for model in decoder._models.values()) and len(decoder._models) == 2
        tickets = [decoder.submit(request) for request in asked]
        found = run(decoder)
        assert [ids(found[ticket]) for ticket in tickets] == want


def alone_with_chain(p: Policy, request: Request) -> list[Token]:
    """Row by row, by each model's own forward pass."""
    decoder = Decoder(p, max_rows=1)
    decoder._runners = {role: Alone(model) for role, model in decoder._models.items()}
    ticket = decoder.submit(request)
    return run(decoder)[ticket]


@pytest.mark.parametrize("bias", [True, False])
def test_a_wide_layer_is_packed_in_pieces(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not can_pack(torch.float32):
        pytest.skip("nothing is packed here")
    monkeypatch.setattr("tempering.sampling.weights._COLUMNS", 7)
    torch.manual_seed(0)
    linear, x = nn.Linear(5, 16, bias), torch.randn(3, 2, 5)
    packed = PackedLinear(linear)
    assert len(packed.pieces) == 3
    with torch.no_grad():
        torch.testing.assert_close(packed(x), linear(x), atol=1e-6, rtol=0)
