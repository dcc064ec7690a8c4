"""Quantised bases for LoRA: how many bytes they take, how near they are, that gradients go through them, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tempering import models
from tempering.errors import UserError
from tempering.methods.scopes.full import Full
from tempering.methods.scopes.lora import LoRA
from tempering.models import half as half_module
from tempering.models.half import Half, halve
from tempering.models.lighter import lighter
from tempering.models.quantise import is_quantised, settings
from tempering.sampling.weights import decoding_copy
from tempering.types import Policy
from tests.contract.test_lighter import calls

KINDS = ("bf16", "nf4", "int8")
TEXT = "Nora Felt was born in Bergen and works as a carpenter. She speaks Danish and keeps two cats."


def load(kind: Any = "none", spec: str = "builtin:tiny") -> Policy:
    if kind in ("nf4", "int8") and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    return models.load(spec, quantise=kind, say=lambda _: None)


def linear_shapes(policy: Policy) -> list[torch.Size]:
    """Weights of the linear layers inside of the blocks of an unquantised model."""
    head: Any = policy.model.get_output_embeddings()  # type: ignore[operator]
    return [m.weight.shape for m in policy.model.modules() if type(m) is torch.nn.Linear and m is not head]


def logps(policy: Policy, text: str = TEXT) -> Tensor:
    ids = torch.tensor([policy.tokenizer(text)["input_ids"]])
    return policy.model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)[0]


def adapted(kind: Any) -> Policy:
    """A model with an adapter that does something, the same for every kind."""
    return adapted_on(load(kind), kind)


def adapted_on(policy: Policy, kind: Any = "none") -> Policy:
    handle = LoRA(r=4, quantise=kind).attach(policy.model)
    with torch.no_grad():
        for i, p in enumerate(handle.params.values()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.02)
    return Policy(handle.model, policy.tokenizer, handle=handle, source=policy.source)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_of_the_base(kind: str) -> None:
    plain, quantised = load(), load(kind)
    size = sum(shape.numel() for shape in linear_shapes(plain))
    rest = sum(p.nbytes for p in plain.model.parameters()) - 4 * size
    bytes_for = {"bf16": 2 * size, "nf4": size // 2, "int8": size}[kind]
    assert sum(p.nbytes for p in quantised.model.parameters()) == rest + bytes_for
    assert is_quantised(quantised.model) and not is_quantised(plain.model)


# The tiny model's own distributions are sharp, so these bounds are wider than a large model's.
@pytest.mark.parametrize(("kind", "bound"), [("nf4", 0.25), ("int8", 0.01), ("bf16", 1e-4)])
def test_distributions_are_near_the_unquantised_ones(kind: str, bound: float) -> None:
    with torch.no_grad():
        plain, near = logps(load()), logps(load(kind))
    kl = (plain.exp() * (plain - near)).sum(-1).mean()
    assert 0 < kl < bound


def gradient(policy: Policy) -> Tensor:
    ids = torch.tensor(policy.tokenizer(TEXT)["input_ids"])
    (-logps(policy)[:-1].gather(-1, ids[1:, None]).mean()).backward()
    assert policy.handle is not None
    return torch.cat([p.grad.flatten() for p in policy.handle.params.values() if p.grad is not None])


@pytest.mark.parametrize(("kind", "least"), [("nf4", 0.75), ("int8", 0.99), ("bf16", 0.999)])
def test_gradients_point_the_same_way_after_an_evaluation_too(kind: str, least: float) -> None:
    """bitsandbytes 0.50 would lose them after the first pass in evaluation mode (cosine 0.26)."""
    plain, quantised = adapted("none"), adapted(kind)
    before = gradient(adapted(kind))
    with torch.no_grad():
        logps(quantised)
    after = gradient(quantised)
    assert torch.equal(before, after)
    assert torch.cosine_similarity(gradient(plain), after, dim=0) > least


@pytest.mark.parametrize("kind", KINDS)
def test_training_and_evaluation_mode_compute_the_same(kind: str) -> None:
    policy = adapted(kind)
    with torch.no_grad():
        evaluated = logps(policy)
        policy.model.train()
        assert torch.equal(logps(policy), evaluated)


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_is_the_base_with_the_adapter_off(kind: str) -> None:
    policy = adapted(kind)
    assert policy.handle is not None
    with torch.no_grad(), policy.handle.off():
        off = logps(policy)
    with torch.no_grad():
        assert torch.equal(off, logps(load(kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_adapter_is_plain_and_opens_on_the_unquantised_base(kind: str, tmp_path: Path) -> None:
    policy = adapted(kind)
    folder = models.save(policy, tmp_path / "adapter")
    assert (folder / "adapter_model.safetensors").is_file()
    opened = load(spec=str(folder))
    assert not is_quantised(opened.model)
    theirs = {n: p for n, p in opened.model.named_parameters() if "lora_" in n}
    assert policy.handle is not None
    assert all(torch.equal(p, theirs[n]) for n, p in policy.handle.params.items()) and len(theirs) == len(policy.handle.params)
    # The same adapter on the unquantised base in memory.
    with torch.no_grad():
        assert torch.equal(logps(opened), logps(adapted("none")))
    again = load(kind, spec=str(folder))
    with torch.no_grad():
        assert torch.equal(logps(again), logps(policy))


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_is_refused_in_a_sentence(kind: Any, tmp_path: Path) -> None:
    policy = adapted(kind)
    assert policy.handle is not None and policy.handle.bake() is None
    with pytest.raises(UserError, match="cannot be folded into quantised weights without rounding them again; save it as an adapter"):
        models.save(policy, tmp_path / "merged", merged=True)
    assert not (tmp_path / "merged").exists()
    with pytest.raises(UserError, match="scope full cannot train quantised weights"):
        Full().attach(load(kind).model)
    with pytest.raises(UserError, match="cannot be saved as plain ones"):
        models.save(load(kind), tmp_path / "plain")
    with pytest.raises(UserError, match=f"load it with quantise='{kind}' too"):
        LoRA(quantise=kind).attach(load().model)


def rounded() -> Policy:
    """The model with the weights of its linear layers as they are in bfloat16."""
    policy = load()
    head: Any = policy.model.get_output_embeddings()  # type: ignore[operator]
    with torch.no_grad():
        for module in policy.model.modules():
            if type(module) is torch.nn.Linear and module is not head:
                module.weight.copy_(module.weight.bfloat16())
    return policy


def test_in_bfloat16_it_is_the_model_with_these_weights_to_the_bit() -> None:
    with torch.no_grad():
        assert torch.equal(logps(load("bf16")), logps(rounded()))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(logps(load("bf16")), logps(load()))


def test_a_model_that_is_published_in_bfloat16_loses_nothing_and_is_never_here_in_32_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, read = rounded(), set[torch.dtype]()
    models.save(replace(policy, model=policy.model.to(torch.bfloat16)), tmp_path / "half")

    def watched(model: Any, dtype: torch.dtype) -> None:
        read.update(p.dtype for p in model.parameters())
        halve(model, dtype)

    monkeypatch.setattr(half_module, "halve", watched)
    opened, plain = load("bf16", str(tmp_path / "half")), load(spec=str(tmp_path / "half"))
    assert read == {torch.bfloat16}
    assert {p.dtype for p in opened.model.parameters()} == {torch.int16, torch.float32}
    with torch.no_grad():
        assert torch.equal(logps(opened), logps(plain))


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_adapters_on_it_train_as_on_the_rounded_weights(half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    counted, found = calls(monkeypatch), []
    for policy in (adapted("bf16"), adapted_on(rounded())):
        with lighter(policy.model), torch.autocast("cpu", torch.bfloat16, enabled=half):
            found.append(gradient(policy))
    # Where a weight lies decides how a product is summed, so not to the bit.
    assert float((found[0] - found[1]).abs().max()) < 1e-5 * float(found[1].abs().max())
    assert len(counted) == 2 * len(linear_shapes(load()))


def test_adapters_on_4_bits_train_as_peft_trains_them_for_less(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = adapted("nf4")
    counted = calls(monkeypatch)
    plain = gradient(policy)
    assert not counted
    policy.model.zero_grad()
    with lighter(policy.model):
        ours = gradient(policy)
    assert len(counted) == len(linear_shapes(load()))
    assert float((ours - plain).abs().max()) < 1e-5 * float(plain.abs().max())


def test_decoding_copies_hold_plain_layers_with_the_adapter_folded_in_before_rounding() -> None:
    on_half, on_float = decoding_copy(adapted("bf16").model, torch.float32), decoding_copy(adapted_on(rounded()).model, torch.float32)
    assert not any(isinstance(m, Half) or "lora" in name for name, m in on_half.named_modules())
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        assert torch.equal(on_half(input_ids=ids, use_cache=False).logits, on_float(input_ids=ids, use_cache=False).logits)
    bare = decoding_copy(load("bf16").model, torch.float32)
    assert not any(isinstance(m, Half) for m in bare.modules())
    with torch.no_grad():
        want = rounded().model(input_ids=ids, use_cache=False).logits
        assert torch.allclose(bare(input_ids=ids, use_cache=False).logits, want, atol=1e-4)


def test_without_the_library_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        settings("nf4")
    assert settings("none") == settings("bf16") == {}


@pytest.mark.parametrize("kind", ["bf16", "nf4"])
def test_a_run_trains_on_a_quantised_base(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempering as tp

    load(kind)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = tp.run("sft", model="builtin:tiny", quantise=kind, steps=6, lr=2e-3, keep="none", max_test=4, precision="fp32", out=tmp_path / "run")
    change = report.ledger.probe("held_loss")
    assert change.after.point < change.before.point - 1
    size = sum(p.numel() for p in load().model.parameters())
    assert json.loads((tmp_path / "run" / "lock.json").read_text())["model"]["parameters"] == size
