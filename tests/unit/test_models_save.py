"""Saving, new tokens and exporting: what is written opens elsewhere with the same log-probs, and is whole or absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tempering.errors import UserError
from tempering.models import export, load, new_token_targets, provenance, resize_tokens, save
from tempering.models import export as export_function
from tempering.models.export import MERGE_TOLERANCE, PROMPTS, Comparison, logps
from tempering.types import Policy
from tests.conftest import make_llama, make_tokenizer
from tests.unit.test_models_home import small_disk

NEW = ["<think>", "</think>"]


def quiet(_: str) -> None:
    pass


def scores(policy: Policy) -> torch.Tensor:
    return logps(policy.model, policy.tokenizer, PROMPTS)


def with_lora(policy: Policy, **changes: Any) -> Policy:
    """The policy under PEFT LoRA, its B moved away from zero as if trained."""
    import peft

    settings: dict[str, Any] = {"r": 2, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    model = peft.get_peft_model(policy.model, peft.LoraConfig(**(settings | changes)))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad and "lora_A" not in name:
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    return Policy(model.eval(), policy.tokenizer, source=policy.source)


@pytest.fixture
def tuned(tiny_folder: Path) -> Policy:
    return with_lora(load(tiny_folder, say=quiet))


def about(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "policy.json").read_text())


def files(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


# ------------------------------------------------------------------------------------------------------------------------ what is written


def test_a_plain_model_comes_back_to_the_bit(tiny_folder: Path, tmp_path: Path) -> None:
    policy = load(tiny_folder, say=quiet)
    out = save(policy, tmp_path / "out", card="# A card\n")
    assert files(out) == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("chat_template.jinja", "policy.json", "README.md"),
    }
    assert (out / "README.md").read_text() == "# A card\n"
    again = load(out, say=pytest.fail)
    assert torch.equal(scores(again), scores(policy))
    assert again.tokenizer.chat_template == policy.tokenizer.chat_template
    assert again.model.generation_config.to_dict() == policy.model.generation_config.to_dict()
    written = about(out)
    assert (written["kind"], written["base"], written["dtype"], written["scope"]) == ("full", str(tiny_folder), "float32", {"kind": "full"})
    origin = provenance(policy.model)
    assert origin is not None and written["base_sha256"] == origin.base_sha256()


def test_an_adapter_opens_here_in_peft_and_merged_in_plain_transformers(tuned: Policy, tiny_folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    expected = scores(tuned)
    adapter, merged = save(tuned, tmp_path / "adapter"), save(tuned, tmp_path / "merged", merged=True)
    assert torch.equal(scores(tuned), expected), "saving must leave the live model as it is"
    assert (expected - scores(load(tiny_folder, say=quiet))).abs().max() > 0.05, "the adapter must matter"

    assert files(adapter) >= {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "policy.json"}
    assert not files(adapter) & {"model.safetensors", "README.md"}
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_folder)
    assert about(adapter)["scope"]["kind"] == "lora" and about(adapter)["scope"]["r"] == 2

    assert torch.equal(scores(load(adapter, say=quiet)), expected)
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    in_peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder), adapter).eval()
    assert torch.equal(logps(in_peft, tokenizer, PROMPTS), expected)
    plain = AutoModelForCausalLM.from_pretrained(merged).eval()
    torch.testing.assert_close(logps(plain, AutoTokenizer.from_pretrained(merged), PROMPTS), expected, rtol=0, atol=1e-5)
    assert torch.equal(logps(plain, tokenizer, PROMPTS), scores(load(merged, say=quiet)))


def test_an_adapter_saved_again_is_the_same_adapter(tuned: Policy, tiny_folder: Path, tmp_path: Path) -> None:
    first = save(tuned, tmp_path / "first")
    second = save(load(first, say=quiet), tmp_path / "second")
    a, b = load_file(first / "adapter_model.safetensors"), load_file(second / "adapter_model.safetensors")
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert json.loads((second / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tiny_folder)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_keeps_its_type(tiny_folder: Path, tmp_path: Path, dtype: str) -> None:
    policy = with_lora(load(tiny_folder, dtype=dtype, say=quiet))
    merged = save(policy, tmp_path / "merged", merged=True)
    assert {t.dtype for t in load_file(merged / "model.safetensors").values()} == {getattr(torch, dtype)}
    adapter = save(policy, tmp_path / "adapter")
    assert about(adapter)["dtype"] == about(merged)["dtype"] == dtype
    assert torch.equal(scores(load(adapter, dtype=dtype, say=quiet)), scores(policy))


def test_an_adapter_on_a_changed_base_is_saved_merged_and_says_so(tuned: Policy, tmp_path: Path) -> None:
    with torch.no_grad():
        for name, p in tuned.model.named_parameters():
            if "base_layer" in name:
                p.add_(0.01)
    out = save(tuned, tmp_path / "out")
    assert "model.safetensors" in files(out) and "adapter_model.safetensors" not in files(out)
    assert about(out)["kind"] == "merged" and about(out)["decisions"][-1].startswith("saved merged, not as an adapter: the base weights in memory")
    torch.testing.assert_close(scores(load(out, say=quiet)), scores(tuned), rtol=0, atol=1e-5)


def test_an_initialisation_that_moves_the_base_survives_saving(tiny_folder: Path, tmp_path: Path) -> None:
    policy = with_lora(load(tiny_folder, say=quiet), init_lora_weights="pissa")
    out = save(policy, tmp_path / "out")
    torch.testing.assert_close(scores(load(out, say=quiet)), scores(policy), rtol=0, atol=1e-4)


class Baked:
    """A handle whose change is folded in by hand."""

    def __init__(self, model: Any, baked: Any) -> None:
        self.model, self.baked, self.params = model, baked, {}

    def bake(self) -> Any:
        return self.baked


def test_other_scopes_are_saved_by_what_they_bake(tmp_path: Path) -> None:
    wrapper = torch.nn.Module()
    policy = Policy(wrapper, make_tokenizer(), handle=Baked(wrapper, make_llama(seed=5)))  # type: ignore[arg-type]
    out = save(policy, tmp_path / "out", merged=True)
    assert about(out)["scope"] == {"kind": "Baked"}
    assert torch.equal(scores(load(out, say=quiet)), logps(make_llama(seed=5), make_tokenizer(), PROMPTS))


# ----------------------------------------------------------------------------------------------------------------------- what is refused


def test_what_cannot_be_saved_is_one_sentence_and_leaves_nothing(tuned: Policy, tmp_path: Path) -> None:
    import peft

    prompt = peft.get_peft_model(make_llama(), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    wrapper = torch.nn.Module()
    nameless = with_lora(Policy(make_llama(), make_tokenizer()))
    nameless.model.peft_config["default"].base_model_name_or_path = None
    cases: list[tuple[Policy, bool, str]] = [
        (Policy(prompt, make_tokenizer()), True, "PROMPT_TUNING cannot be folded into plain weights"),
        (Policy(wrapper, make_tokenizer(), handle=Baked(wrapper, None)), True, "the scope Baked cannot be folded into plain weights"),  # type: ignore[arg-type]
        (Policy(wrapper, make_tokenizer()), False, "a Module is not a transformers model"),
        (nameless, False, "the adapter's base model has no name or folder to load it by"),
    ]
    for policy, merged, sentence in cases:
        with pytest.raises(UserError, match=sentence):
            save(policy, tmp_path / "x" / "out", merged=merged)
        assert files(tmp_path / "x") == set()


def test_only_its_own_folders_are_replaced(tuned: Policy, tmp_path: Path) -> None:
    out = save(tuned, tmp_path / "out")
    save(tuned, out, merged=True)
    assert "model.safetensors" in files(out) and "adapter_config.json" not in files(out)
    assert files(tmp_path) == {"out", "tiny"}
    (out / "mine").mkdir()
    for folder in (out, tmp_path / "tiny", tmp_path):
        before = sorted(p for p in folder.rglob("*"))
        with pytest.raises(UserError, match="holds something that is not a model saved by tempering"):
            save(tuned, folder)
        assert sorted(p for p in folder.rglob("*")) == before


def test_a_full_disk_leaves_no_model(tuned: Policy, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "16k") as disk:
        for merged in (True, False):
            with pytest.raises(UserError, match="the disk is full"):
                save(tuned, disk / "out", merged=merged)
            assert files(disk) == set()


def test_a_read_only_disk_is_one_sentence(tuned: Policy, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", options=",ro") as disk, pytest.raises(UserError, match="read-only"):
        save(tuned, disk / "out")


# -------------------------------------------------------------------------------------------------------------------------- new tokens


def tied_or_not(folder: Path, tmp_path: Path, tied: bool) -> Policy:
    if tied:
        return load(folder, say=quiet)
    make_llama(tie_word_embeddings=False).save_pretrained(tmp_path / "untied")
    make_tokenizer().save_pretrained(tmp_path / "untied")
    return load(tmp_path / "untied", say=quiet)


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_are_the_mean_of_the_old(tiny_folder: Path, tmp_path: Path, tied: bool) -> None:
    policy = tied_or_not(tiny_folder, tmp_path, tied)
    model: Any = policy.model
    old = [layer.weight.detach().clone() for layer in (model.get_input_embeddings(), model.get_output_embeddings())]
    before = scores(policy)
    assert resize_tokens(policy, NEW) == [274, 275]
    for layer, rows in zip((model.get_input_embeddings(), model.get_output_embeddings()), old, strict=True):
        assert torch.equal(layer.weight[:274], rows)
        for row in layer.weight[274:]:
            torch.testing.assert_close(row, rows.mean(0), rtol=0, atol=1e-6)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) is tied
    assert model.config.vocab_size == 276
    assert policy.tokenizer.encode("a<think>b") == [*policy.tokenizer.encode("a"), 274, *policy.tokenizer.encode("b")]
    # Two more words in every softmax: log-probs of the old ones go down, by the same little everywhere their rivals are the same.
    assert (scores(policy) <= before).all()


def test_rows_that_no_token_uses_are_taken_first() -> None:
    policy = Policy(make_llama(vocab=300), make_tokenizer())
    model: Any = policy.model
    used = model.get_input_embeddings().weight[:274].detach().mean(0)
    assert resize_tokens(policy, NEW) == [274, 275]
    assert model.get_input_embeddings().weight.shape[0] == 300
    torch.testing.assert_close(model.get_input_embeddings().weight[275], used, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("trained", ["rows", "whole", "not"])
def test_new_tokens_survive_with_the_adapter(tiny_folder: Path, tmp_path: Path, tied: bool, trained: str) -> None:
    """As trained rows (trainable_token_indices), as whole embeddings (modules_to_save), or saved untrained."""
    policy = tied_or_not(tiny_folder, tmp_path, tied)
    base = policy.source
    resize_tokens(policy, NEW)
    targets = new_token_targets(policy)
    assert targets == ({"embed_tokens": [274, 275]} | ({} if tied else {"lm_head": [274, 275]}))
    whole = ["embed_tokens"] if tied else ["embed_tokens", "lm_head"]
    extra: dict[str, Any] = {"rows": {"trainable_token_indices": targets}, "whole": {"modules_to_save": whole}, "not": {}}[trained]
    if trained == "whole" and tied:
        extra["ensure_weight_tying"] = True
    policy = with_lora(policy, **extra)
    text = ["a<think>b c</think>d", *PROMPTS]
    expected = logps(policy.model, policy.tokenizer, text)

    out = save(policy, tmp_path / "out")
    assert about(out)["new_tokens"] == NEW
    again = load(out, say=quiet)
    assert provenance(again.model).base == base  # type: ignore[union-attr]
    assert torch.equal(logps(again.model, again.tokenizer, text), expected)
    twice = load(save(again, tmp_path / "twice"), say=quiet)
    assert torch.equal(logps(twice.model, twice.tokenizer, text), expected)
    merged = load(save(policy, tmp_path / "merged", merged=True), say=quiet)
    torch.testing.assert_close(logps(merged.model, merged.tokenizer, text), expected, rtol=0, atol=5e-5)


def test_new_tokens_that_cannot_be(tiny_folder: Path, tuned: Policy) -> None:
    policy = load(tiny_folder, say=quiet)
    cases: list[tuple[Any, str]] = [
        (["<|pad|>"], "'<|pad|>' is in the vocabulary already"),
        (["<a>", "<a>"], "'<a>' is in the vocabulary already or given twice"),
        (["<a>", " "], "new token 2 is empty"),
        ([], "must be a list of texts"),
        ("<a>", "must be a list of texts"),
    ]
    for tokens, sentence in cases:
        with pytest.raises(UserError) as caught:
            resize_tokens(policy, tokens)
        assert sentence in str(caught.value)
    with pytest.raises(UserError, match="init 'zero' for new tokens is not known"):
        resize_tokens(policy, ["<a>"], init="zero")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="before an adapter is attached"):
        resize_tokens(tuned, ["<a>"])
    assert len(policy.tokenizer) == 274 and new_token_targets(policy) is None


# ----------------------------------------------------------------------------------------------------------------------------- export


def test_export_proves_that_adapter_merged_and_saved_again_agree(tuned: Policy, tmp_path: Path) -> None:
    report = export(tuned, tmp_path / "merged", merged=True, check=True)
    assert report.kind == "merged"
    assert [c.name for c in report.comparisons] == ["adapter and merged", "merged and saved-again"]
    assert report.comparisons[0].max_abs_difference <= 1e-5 and report.comparisons[1].max_abs_difference == 0.0
    assert report.tokens == len(scores(tuned))
    assert "adapter and merged: agree within 0.0001 (largest difference " in str(report)
    again = export(tmp_path / "merged", tmp_path / "again", merged=True, check=True, say=quiet)
    assert again.kind == "full" and [c.max_abs_difference for c in again.comparisons] == [0.0]

    kept = export(tuned, tmp_path / "adapter", merged=False, check=True)
    assert kept.kind == "adapter" and [(c.name, c.max_abs_difference) for c in kept.comparisons] == [("adapter and saved-again", 0.0)]
    assert export(tmp_path / "adapter", tmp_path / "unchecked", merged=True, check=False, say=quiet).comparisons == ()


def test_export_in_bfloat16_states_its_own_tolerance(tiny_folder: Path, tmp_path: Path) -> None:
    policy = with_lora(load(tiny_folder, dtype="bfloat16", say=quiet))
    report = export(policy, tmp_path / "out", merged=True, check=True)
    first, second = report.comparisons
    assert 1e-3 < first.max_abs_difference <= first.tolerance == MERGE_TOLERANCE["bfloat16"]
    assert second.max_abs_difference == 0.0
    assert report.moved is not None and report.moved > 5 * first.max_abs_difference


def test_scores_are_computed_in_float32_and_leave_the_weights_alone(tiny_folder: Path) -> None:
    half = load(tiny_folder, dtype="bfloat16", say=quiet)
    before = [(p, p.data_ptr(), p.dtype, p.detach().clone()) for p in half.model.parameters()]
    found = scores(half)
    assert all(p.data_ptr() == at and p.dtype == dtype and torch.equal(p, value) for p, at, dtype, value in before)
    assert torch.equal(found, logps(half.model.float(), half.tokenizer, PROMPTS))


def test_an_export_that_disagrees_does_not_exist(tuned: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    module = sys.modules["tempering.models.export"]
    write = module.write  # type: ignore[attr-defined]

    def spoiled(policy: Policy, folder: Path, *, merged: bool) -> str:
        with torch.no_grad():
            next(p for n, p in policy.model.named_parameters() if "norm" in n).add_(0.01)
        try:
            return write(policy, folder, merged=merged)
        finally:
            with torch.no_grad():
                next(p for n, p in policy.model.named_parameters() if "norm" in n).sub_(0.01)

    monkeypatch.setattr(module, "write", spoiled)
    with pytest.raises(UserError, match=r"the exported model is not the trained one: merged and saved-again differ by .* more than 0.0001"):
        export_function(tuned, tmp_path / "x" / "out", merged=True, check=True)
    assert files(tmp_path / "x") == set()


def test_no_comparison_passes_on_nan_or_other_tokens() -> None:
    import sys

    distance = sys.modules["tempering.models.export"]._distance  # type: ignore[attr-defined]
    assert not Comparison("x", distance(torch.tensor([float("nan")]), torch.zeros(1)), 1.0).agrees
    assert not Comparison("x", distance(torch.zeros(2), torch.zeros(1)), 1.0).agrees
    assert distance(torch.tensor([1.0, -2.0]), torch.tensor([1.5, -2.25])) == 0.5


def test_a_decode_chain_is_named_as_not_exported(tiny_folder: Path, tmp_path: Path) -> None:
    class Contrast:
        roles = ()

    policy = load(tiny_folder, say=quiet)
    policy.decode = (Contrast(),)  # type: ignore[assignment]
    report = export(policy, tmp_path / "out", merged=True, check=False)
    assert report.notes == ("not exported: the decode chain (Contrast) acts while sampling and has no place in a folder of weights",)
    assert about(tmp_path / "out")["decode"] == ["Contrast"]
