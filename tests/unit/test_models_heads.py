"""Body and head, and packing, on tiny random models of twelve families; each equality is exact to float32 rounding."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from tempering.models.heads import body_and_head, packs

COMMON: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen2": {"tie_word_embeddings": True},
    "Qwen3": {"head_dim": 8},
    "Gemma2": {"head_dim": 8, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 8, "sliding_window": 3},
    "Gemma3Text": {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"]},
    "Mistral": {"head_dim": 8, "sliding_window": 3},
    "GPTNeoX": {"num_key_value_heads": None},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "Granite": {"logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3},
    "Cohere": {"logit_scale": 0.25},
    "Olmo2": {},
    "Phi3": {"sliding_window": 3},
}
CAPPED = {"Gemma2", "Granite", "Cohere"}
LORA_TARGETS = {"GPT2": ["c_attn", "c_fc"]}


def make(family: str) -> Any:
    import transformers

    config_name = f"{family}Config"
    kwargs = {**COMMON, **FAMILIES[family]}
    kwargs = {k: v for k, v in kwargs.items() if v is not None}
    if family == "GPT2":
        kwargs = {k: v for k, v in kwargs.items() if k not in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_key_value_heads")}
    config = getattr(transformers, config_name)(**kwargs)
    torch.manual_seed(0)
    name = "GPT2LMHeadModel" if family == "GPT2" else family.removesuffix("Text") + "ForCausalLM"
    return getattr(transformers, name)(config).eval()


def lora(model: Any, family: str, **changes: Any) -> Any:
    """PEFT LoRA with B away from zero, so that the adapter really changes the logits."""
    import peft

    settings = {"r": 4, "target_modules": LORA_TARGETS.get(family, "all-linear"), "task_type": "CAUSAL_LM", "fan_in_fan_out": family == "GPT2"}
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**(settings | changes)))
    with torch.no_grad():
        for name, p in wrapped.named_parameters():
            if "lora_" in name:
                p.normal_(std=0.3)
    return wrapped.eval()


def ids(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randint(3, 61, shape, generator=torch.Generator().manual_seed(seed))


def split_logits(model: Any, x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    split = body_and_head(model)
    assert split is not None
    hidden = split.body(x, position)
    # The head must work on any leading shape: the engine gives it a flat selection of positions.
    return split.head(hidden.flatten(0, 1)).view(*x.shape, -1)


def position_of(x: torch.Tensor) -> torch.Tensor:
    return torch.arange(x.shape[1]).expand_as(x)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_head_of_body_is_the_models_own_forward(family: str) -> None:
    model = make(family)
    x = ids(2, 9)
    expected = model(input_ids=x, use_cache=False).logits
    torch.testing.assert_close(split_logits(model, x, position_of(x)), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_same_under_peft_lora_on_and_off(family: str) -> None:
    model = make(family)
    x = ids(2, 9)
    plain = model(input_ids=x, use_cache=False).logits
    wrapped = lora(model, family)
    adapted = wrapped(input_ids=x, use_cache=False).logits
    assert (adapted - plain).abs().max() > 1e-2
    torch.testing.assert_close(split_logits(wrapped, x, position_of(x)), adapted, rtol=0, atol=1e-5)
    with wrapped.disable_adapter():
        torch.testing.assert_close(split_logits(wrapped, x, position_of(x)), plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_packed_samples_give_what_each_gives_alone(family: str) -> None:
    model = make(family)
    assert packs(model)
    a, b = ids(1, 7, seed=4), ids(1, 5, seed=5)
    filling = torch.zeros(1, 3, dtype=torch.long)
    # As the engine lays out a row: two samples, then fillings that are samples of one token each.
    position = torch.cat([position_of(a), position_of(b), filling], 1)
    packed = split_logits(model, torch.cat([a, b, filling], 1), position)
    torch.testing.assert_close(packed[:, :7], model(input_ids=a, use_cache=False).logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(packed[:, 7:12], model(input_ids=b, use_cache=False).logits, rtol=0, atol=1e-5)
    assert packed.isfinite().all()


@pytest.mark.parametrize("family", sorted(CAPPED))
@torch.no_grad()
def test_what_follows_the_output_layer_matters_in_these_families(family: str) -> None:
    """Without the cap or scale the head would be wrong: the plain output layer gives other numbers."""
    model = make(family)
    x = ids(1, 5)
    split = body_and_head(model)
    assert split is not None
    hidden = split.body(x, position_of(x))
    assert (model.lm_head(hidden) - split.head(hidden)).abs().max() > 0.1


def test_gradients_through_the_split_equal_those_of_the_forward() -> None:
    model = lora(make("Qwen3"), "Qwen3").train()
    x = ids(2, 6)

    def grads(logits: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        torch.log_softmax(logits.float(), -1)[..., 5].sum().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}

    whole = grads(model(input_ids=x, use_cache=False).logits)
    split = grads(split_logits(model, x, position_of(x)))
    assert whole.keys() == split.keys() and any(g.abs().max() > 1e-3 for g in whole.values())
    for name in whole:
        torch.testing.assert_close(split[name], whole[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "changes", [{"target_modules": ["q_proj", "lm_head"]}, {"modules_to_save": ["lm_head"]}], ids=["on lm_head", "lm_head saved"]
)
@torch.no_grad()
def test_adapters_on_the_output_layer_act(changes: dict[str, Any]) -> None:
    model = lora(make("Llama"), "Llama", **changes)
    for name, p in model.named_parameters():
        if "lm_head" in name and p.requires_grad:
            p.add_(0.1)
    x = ids(1, 6)
    expected = model(input_ids=x, use_cache=False).logits
    torch.testing.assert_close(split_logits(model, x, position_of(x)), expected, rtol=0, atol=1e-5)
    with model.disable_adapter():
        assert (model(input_ids=x, use_cache=False).logits - expected).abs().max() > 1e-2


def test_dropout_of_the_adapter_acts_in_training_mode() -> None:
    model = lora(make("Llama"), "Llama", lora_dropout=0.5).train()
    split = body_and_head(model)
    x = ids(1, 6)
    assert split is not None

    def draw(forward: Any) -> torch.Tensor:
        torch.manual_seed(7)
        return forward()

    torch.testing.assert_close(
        draw(lambda: split.head(split.body(x, position_of(x)))), draw(lambda: model(input_ids=x, use_cache=False).logits), rtol=0, atol=1e-5
    )
    assert not torch.equal(split.body(x, position_of(x)), split.body(x, position_of(x)))


def test_a_copy_computes_with_its_own_weights() -> None:
    model = make("Llama")
    assert body_and_head(model) is not None
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.model.embed_tokens.weight.mul_(2.0)
        x = ids(1, 5)
        torch.testing.assert_close(split_logits(twin, x, position_of(x)), twin(input_ids=x, use_cache=False).logits, rtol=0, atol=1e-5)
        assert not torch.allclose(split_logits(twin, x, position_of(x)), split_logits(model, x, position_of(x)))


def test_the_checks_leave_modes_and_random_state_alone_and_run_once() -> None:
    model = make("Llama").train()
    model.model.layers[0].eval()
    calls: list[int] = []
    before = torch.get_rng_state()
    forward = model.model.forward
    model.model.forward = lambda *a, **k: calls.append(1) or forward(*a, **k)  # type: ignore[func-returns-value]
    assert packs(model) and body_and_head(model) is not None
    seen = len(calls)
    assert packs(model) and body_and_head(model) is not None
    assert len(calls) == seen > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training and model.model.layers[1].training and not model.model.layers[0].training
    assert not model.model.layers[0].self_attn.training


def test_no_split_where_the_parts_do_not_add_up() -> None:
    model = make("Llama")

    class Shifted(type(model)):
        def forward(self, **inputs: Any) -> Any:
            out = super().forward(**inputs)
            out.logits = out.logits + 0.01
            return out

    model.__class__ = Shifted
    assert body_and_head(model) is None


def test_no_split_for_what_is_not_a_causal_model_or_is_hooked() -> None:
    assert body_and_head(nn.Linear(3, 3)) is None
    model = make("Llama")
    model.register_forward_hook(lambda module, inputs, output: output)
    assert body_and_head(model) is None


def test_no_split_for_prompt_learning() -> None:
    import peft

    model = peft.get_peft_model(make("Llama"), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    assert body_and_head(model) is None


def test_models_that_leak_between_samples_do_not_pack() -> None:
    import transformers

    torch.manual_seed(0)
    settings = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2}
    mamba = transformers.MambaForCausalLM(transformers.MambaConfig(**settings, state_size=4)).eval()
    assert not packs(mamba)
    bloom = transformers.BloomForCausalLM(transformers.BloomConfig(**settings, n_head=4)).eval()
    assert not packs(bloom)


class Toy(nn.Module):
    """Logits from the token and a running mean: over its own sample if `kept_apart`, else over the row."""

    def __init__(self, kept_apart: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.kept_apart = kept_apart

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, use_cache: bool = False) -> torch.Tensor:
        x = self.embed(input_ids)
        if not self.kept_apart:
            return x.cumsum(1)
        sample = (position_ids == 0).cumsum(1)
        same = (sample[:, :, None] == sample[:, None, :]).tril().float()
        return same @ x


@pytest.mark.parametrize("kept_apart", [True, False])
def test_packing_is_found_by_trying_on_any_module(kept_apart: bool) -> None:
    assert packs(Toy(kept_apart)) is kept_apart


@torch.no_grad()
def test_half_precision_models_split_and_pack_too() -> None:
    model = make("Llama").to(torch.bfloat16)
    assert body_and_head(model) is not None and packs(model)
    mamba_like = Toy(False).to(torch.bfloat16)
    assert not packs(mamba_like)
