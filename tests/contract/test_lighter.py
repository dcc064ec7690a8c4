"""The lighter twins of norms, gated MLPs and LoRA layers: a whole model's loss and gradients with and without them, and what they leave alone."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from tempering.models import lighter as module
from tempering.models.lighter import lighter
from tests.toy import VOCAB, toy_llama

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"head_dim": 8},
    "gemma2": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8},
    "mistral": {},
    "phi3": {"pad_token_id": 0},
}


def family(name: str) -> nn.Module:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        name, vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        initializer_range=0.2, **FAMILIES[name],
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


def loss_and_grads(model: nn.Module, light: bool, half: bool = False) -> tuple[float, dict[str, torch.Tensor]]:
    ids = torch.randint(3, VOCAB, (2, 9), generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        if light:
            with lighter(model):
                loss = model(input_ids=ids, labels=ids, use_cache=False).loss
                loss.backward()
        else:
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_close(a: tuple[float, dict[str, torch.Tensor]], b: tuple[float, dict[str, torch.Tensor]], tolerance: float) -> None:
    assert a[0] == pytest.approx(b[0], rel=tolerance)
    assert a[1].keys() == b[1].keys() and a[1]
    for name, grad in b[1].items():
        assert float((a[1][name] - grad).abs().max()) <= tolerance * max(1e-3, float(grad.abs().max())), name


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_is_the_same_with_them(name: str) -> None:
    model = family(name)
    assert_close(loss_and_grads(model, True), loss_and_grads(model, False), 2e-5)


@pytest.mark.parametrize(
    ("name", "norm", "gate"), [("llama", module._norm, True), ("qwen3", module._norm, True), ("gemma2", module._norm_from_one, False)]
)
def test_they_are_really_taken(name: str, norm: Any, gate: bool) -> None:
    found = module._found(family(name))
    # Two norms a layer and the last one at least; Gemma's MLP has another activation.
    assert sum(f is norm for _, f in found) >= 5
    assert any(f is module._gated for _, f in found) == gate


def test_in_half_precision_they_stay_within_its_rounding() -> None:
    model = family("llama")
    exact = loss_and_grads(model, False)
    assert_close(loss_and_grads(model, True, half=True), exact, 0.05)
    assert_close(loss_and_grads(model, False, half=True), exact, 0.05)


def lora(model: nn.Module, **changes: Any) -> Any:
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM", **changes))  # type: ignore[arg-type]
    for name, p in wrapped.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p, std=0.2)
    return wrapped


def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counted: list[int] = []
    apply = module._LoRA.apply
    monkeypatch.setattr(module._LoRA, "apply", lambda *a: counted.append(1) or apply(*a))
    return counted


def test_lora_layers_are_the_same_and_the_base_gets_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lora(toy_llama())
    plain = loss_and_grads(model, False)
    counted = calls(monkeypatch)
    assert_close(loss_and_grads(model, True), plain, 2e-5)
    assert len(counted) == 2 * 7
    assert all("lora_" in name for name in plain[1])


@pytest.mark.parametrize("changes", [{"use_dora": True}, {"lora_bias": True}, {"bias": "all"}], ids=str)
def test_other_kinds_of_adapter_go_peft_s_way(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = lora(toy_llama(), **changes)
    plain = loss_and_grads(model, False)
    counted = calls(monkeypatch)
    assert_close(loss_and_grads(model, True), plain, 2e-5)
    assert len(counted) == (2 * 7 if "bias" in changes else 0)


def test_dropout_goes_peft_s_way_in_training_and_ours_in_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lora(toy_llama(), lora_dropout=0.5)
    counted = calls(monkeypatch)
    loss_and_grads(model.train(), True)
    assert not counted
    loss_and_grads(model.eval(), True)
    assert len(counted) == 2 * 7


def test_a_switched_off_adapter_is_the_base() -> None:
    base = toy_llama()
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        before = base(input_ids=ids).logits
        model = lora(base)
        with lighter(model), model.disable_adapter():
            assert torch.allclose(model(input_ids=ids).logits, before, atol=1e-5)
        assert not torch.allclose(model(input_ids=ids).logits, before, atol=1e-2)


def test_nothing_is_left_behind() -> None:
    model = lora(toy_llama())
    with lighter(model), lighter(model):
        assert any("forward" in m.__dict__ for m in model.modules())
    assert not any("forward" in m.__dict__ for m in model.modules())
