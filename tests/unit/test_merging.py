"""Weights read lazily and written in shards, mergekit's files turned into plans, merges that go on where they were killed, and vocabularies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tempering.errors import UserError
from tempering.home import sha256_file
from tempering.merging import write as writing
from tempering.merging.config import evaluate, parse, read_config
from tempering.merging.plan import make_plan
from tempering.merging.read import open_weights
from tempering.merging.run import merge
from tests.conftest import make_llama, make_tokenizer
from tests.unit.merging_cases import Models, bytes_of, quiet, tensors, three


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Models:
    return three(tmp_path, monkeypatch)


# ---------------------------------------------------------------------------------------------------------------------------- reading and writing


def test_tensors_are_read_as_safetensors_reads_them(models: Models) -> None:
    weights = open_weights("m", quiet)
    stored = tensors(models["m"])
    assert weights.metas.keys() == stored.keys()
    for name, tensor in stored.items():
        assert weights.metas[name].shape == tensor.shape and weights.metas[name].dtype == tensor.dtype
        assert torch.equal(weights.read(name), tensor)


def test_what_is_written_in_shards_transformers_and_this_read_back(tmp_path: Path) -> None:
    made = {f"t{i}": torch.randn(7, 3).to(dtype) for i, dtype in enumerate([torch.bfloat16, torch.float32, torch.float16, torch.float64] * 3)}
    made |= {"none": torch.empty(0, 4), "one": torch.tensor(3.5), "count": torch.arange(5)}
    slots = [writing.Slot(name, writing.Meta(tuple(t.shape), t.dtype)) for name, t in made.items()]
    asked: list[str] = []

    def make(name: str) -> Tensor:
        asked.append(name)
        return made[name]

    writing.write(tmp_path, slots, make, "k", 400, quiet)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 2 and sorted(asked) == sorted(made)
    found = tensors(tmp_path)
    weights = open_weights_of(tmp_path)
    for name, tensor in made.items():
        assert torch.equal(found[name], tensor) and torch.equal(weights(name), tensor)
    sums = json.loads((tmp_path / "checksums.json").read_text())
    assert sums == {file.name: sha256_file(file, remember=False) for file in files}
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in made.values())
    assert not (tmp_path / "journal.json").exists()


def open_weights_of(folder: Path) -> Callable[[str], Tensor]:
    (folder / "config.json").write_text("{}")
    return open_weights(str(folder), quiet).read


def test_a_lora_is_folded_in_as_peft_folds_it(models: Models) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("m", dtype=torch.float32)
    model.save_pretrained("plain")
    kinds = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj", "embed_tokens"], "alpha_pattern": {"down_proj": 3}}
    for rank_stable in (False, True):
        config = peft.LoraConfig(**kinds, rank_pattern={"q_proj": 2}, use_rslora=rank_stable, init_lora_weights=False, task_type="CAUSAL_LM")
        wrapped = peft.get_peft_model(AutoModelForCausalLM.from_pretrained("plain"), config)
        folder = f"adapter-{rank_stable}"
        wrapped.save_pretrained(folder)
        merged = wrapped.merge_and_unload().state_dict()
        weights = open_weights(f"plain+{folder}", quiet)
        for name in weights.metas:
            assert torch.allclose(weights.read(name), merged[name], atol=1e-6), name


def test_an_adapter_that_is_no_plain_lora_says_so(models: Models) -> None:
    Path("odd").mkdir()
    save_file({"base_model.model.x.lora_magnitude_vector": torch.ones(2)}, "odd/adapter_model.safetensors")
    Path("odd/adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "m", "use_dora": True}))
    with pytest.raises(UserError, match=r"DoRA.*export"):
        open_weights("odd", quiet)
    Path("odd/adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "m"}))
    with pytest.raises(UserError, match="lora_magnitude_vector"):
        open_weights("odd", quiet)
    save_file(
        {"base_model.model.x.lora_A.weight": torch.ones(2, 2), "base_model.model.x.lora_B.weight": torch.ones(2, 2)}, "odd/adapter_model.safetensors"
    )
    with pytest.raises(UserError, match="belongs to another model"):
        open_weights("odd", quiet)


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"\x00" * 8,
        b"\xff" * 20,
        (10).to_bytes(8, "little") + b'{"a":1}   ',
        (72).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,800]}}'.ljust(72),
        (72).to_bytes(8, "little") + b'{"a":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}}'.ljust(72) + b"\0" * 8,
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, broken: bytes) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(broken)
    with pytest.raises(UserError, match=r"model\.safetensors is not a readable safetensors file"):
        open_weights(str(tmp_path), quiet)


def test_an_index_leads_nowhere_else(models: Models) -> None:
    where = models["m"] / "model.safetensors.index.json"
    where.write_text(json.dumps({"weight_map": {"x": "../a/model.safetensors"}}))
    with pytest.raises(UserError, match="names no files beside it"):
        open_weights("m", quiet)
    where.write_text(json.dumps({"weight_map": {"x": "model.safetensors"}}))
    with pytest.raises(UserError, match="names a tensor x"):
        open_weights("m", quiet)


# ---------------------------------------------------------------------------------------------------------------------------------- configurations


def test_settings_by_depth_and_by_name() -> None:
    assert evaluate(0.3, "x", 0.7) == 0.3 and evaluate(True, "x", 0) is True
    assert [evaluate([0, 1, 0.5], "x", depth) for depth in (0, 0.25, 0.5, 0.75, 1)] == [0, 0.5, 1, 0.75, 0.5]
    setting = [{"filter": "mlp", "value": [0, 1]}, {"filter": "attn", "value": 0.2}, {"value": 0.5}]
    assert [evaluate(setting, name, 0.5) for name in ("l.mlp.up", "l.attn.q", "norm")] == [0.5, 0.2, 0.5]
    assert evaluate(setting[:1], "norm", 0.5) is None


def config_of(text: str) -> Any:
    Path("c.yaml").write_text(text)
    return read_config(Path("c.yaml"))


SLICES = """
slices:
  - sources:
      - {model: a, layer_range: [0, 2]}
  - sources:
      - {model: b, layer_range: [1, 2], parameters: {scale: [{filter: o_proj, value: 0.0}, {value: 1.0}]}}
merge_method: passthrough
"""


def test_slices_stack_layers_and_the_ends_come_from_the_first_and_the_last(models: Models) -> None:
    merge(config_of(SLICES), "out", say=quiet)
    out, a, b = tensors(Path("out")), tensors(models["a"]), tensors(models["b"])
    assert json.loads(Path("out/config.json").read_text())["num_hidden_layers"] == 3
    assert torch.equal(out["model.embed_tokens.weight"], a["model.embed_tokens.weight"])
    assert torch.equal(out["model.norm.weight"], b["model.norm.weight"])
    for name, tensor in out.items():
        if ".layers.2." in name:
            source = b[name.replace("layers.2", "layers.1")]
            assert torch.equal(tensor, source * 0 if "o_proj" in name else source)
        elif ".layers." in name:
            assert torch.equal(tensor, a[name])
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained("out")(torch.tensor([[1, 2]])).logits.shape == (1, 2, 274)


def test_every_place_of_a_setting_is_looked_at_in_turn(models: Models) -> None:
    text = """
merge_method: ties
base_model: m
models:
  - model: a
    parameters: {weight: [{filter: q_proj, value: [0, 1]}]}
  - model: b
    parameters: {density: 0.5}
parameters: {weight: 0.25, normalize: false, lambda: 2, int8_mask: true}
"""
    said: list[str] = []
    weights = {name: open_weights(name, quiet) for name in "mab"}
    pieces = {piece.name: piece for piece in make_plan(config_of(text), weights, said.append).pieces}
    q1, up0 = (pieces[f"model.layers.{name}_proj.weight"].method for name in ("1.self_attn.q", "0.mlp.up"))
    assert (q1.weight, q1.density, q1.normalize, q1.lambda_) == ((1, 0.25), (1.0, 0.5), False, 2)
    assert up0.weight == (0.25, 0.25) and pieces["model.norm.weight"].base == ("m", "model.norm.weight") and not said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("merge_method: ties\nmodels: [{model: a}, {model: b}]", "ties needs the model whose changes are merged"),
        ("merge_method: tise\nmodels: [{model: a}]", "no merge named 'tise'.*did you mean 'ties'"),
        ("merge_method: linear", "exactly one of models, slices and modules"),
        ("merge_method: linear\nmodels: [{modle: a}]", "models.0.model: Field required"),
        ("merge_method: linear\nmodels: [{model: a, weight: 1}]", r"models\.0\.weight: Extra inputs"),
        ("- 1", "holds a list; a merge begins with"),
        ("a: [", "is not YAML"),
        ("merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [1, 3]}]}]", r"layer_range \[1, 3\] of a: it has layers 0 to 1"),
        ("merge_method: ties\nbase_model: m\nmodels: [{model: a}]\nparameters: {density: much}", "ties: density"),
        ("merge_method: slerp\nmodels: [{model: a}, {model: b}, {model: m}]", "slerp is between two models, and 3"),
    ],
)
def test_a_wrong_file_is_one_sentence(models: Models, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        merge(config_of(text), "out", say=quiet)
    assert not Path("out").exists()


def test_models_of_other_shapes_are_refused_by_name(models: Models) -> None:
    make_llama(hidden=16).save_pretrained("small")
    with pytest.raises(UserError, match=r"layernorm.weight is 32 in a and 16 in small|is \d+ x 32 in a and \d+ x 16 in small"):
        merge(parse({"merge_method": "linear", "models": [{"model": "a"}, {"model": "small"}]}, "test"), "out", say=quiet)
    make_llama(vocab=280).save_pretrained("wide")
    with pytest.raises(UserError, match=r"a has 274 tokens and wide 280; .*--tokenizer union"):
        merge(parse({"merge_method": "linear", "models": [{"model": "a"}, {"model": "wide"}]}, "test"), "out", say=quiet)
    make_llama(layers=3).save_pretrained("deep")
    with pytest.raises(UserError, match=r"have 2 \(a\), 3 \(deep\) layers"):
        merge(parse({"merge_method": "linear", "models": [{"model": "a"}, {"model": "deep"}]}, "test"), "out", say=quiet)


def test_a_head_that_one_model_shares_with_its_embedding_is_read_from_there(models: Models) -> None:
    own = make_llama(tie_word_embeddings=False)
    own.save_pretrained("own")
    tied = make_llama(seed=1)
    tied.save_pretrained("tied")
    merge(parse({"merge_method": "linear", "models": [{"model": "tied"}, {"model": "own"}]}, "test"), "out", say=quiet)
    expected = (own.lm_head.weight + tied.model.embed_tokens.weight) / 2
    assert torch.allclose(tensors(Path("out"))["lm_head.weight"], expected)
    assert json.loads(Path("out/config.json").read_text())["tie_word_embeddings"] is False


# ---------------------------------------------------------------------------------------------------------------------------------------- merges

TIES = {"merge_method": "ties", "base_model": "m", "models": [{"model": "a"}, {"model": "b"}], "parameters": {"density": 0.5}}


def test_files_do_not_depend_on_what_was_finished_before(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse(TIES | {"merge_method": "dare_ties"}, "test")
    merge(config, "whole", shard_bytes=20_000, say=quiet)
    shard, made = writing._shard, []

    def stops(path: Path, *args: Any) -> str:
        if len(made) == 2:
            path.write_bytes(b"half a file")
            raise KeyboardInterrupt
        made.append(path.name)
        return shard(path, *args)

    monkeypatch.setattr(writing, "_shard", stops)
    with pytest.raises(KeyboardInterrupt):
        merge(config, "out", shard_bytes=20_000, say=quiet)
    assert Path(".out.partial/journal.json").exists() and not Path("out").exists()
    monkeypatch.setattr(writing, "_shard", shard)
    said: list[str] = []
    merge(config, "out", shard_bytes=20_000, say=said.append)
    assert "going on: 2 of" in said[0]
    assert bytes_of(Path("out")) == bytes_of(Path("whole"))
    with pytest.raises(UserError, match="is there already"):
        merge(config, "out", say=quiet)


def test_what_was_finished_with_other_settings_is_not_kept(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = writing._shard

    def stops(path: Path, *args: Any) -> str:
        if "00002" in path.name:
            raise KeyboardInterrupt
        return shard(path, *args)

    monkeypatch.setattr(writing, "_shard", stops)
    with pytest.raises(KeyboardInterrupt):
        merge(parse(TIES, "test"), "out", shard_bytes=20_000, say=quiet)
    monkeypatch.setattr(writing, "_shard", shard)
    said: list[str] = []
    other = parse(TIES | {"parameters": {"density": 0.25}}, "test")
    merge(other, "out", shard_bytes=20_000, say=said.append)
    merge(other, "fresh", shard_bytes=20_000, say=said.append)
    assert not said and bytes_of(Path("out")) == bytes_of(Path("fresh"))


def test_types_of_computing_and_of_storing(models: Models) -> None:
    merge(parse(TIES | {"dtype": "float32", "out_dtype": "float16"}, "test"), "out", say=quiet)
    merge(parse(TIES | {"dtype": "float32"}, "test"), "fine", say=quiet)
    fine = tensors(Path("fine"))
    assert all(torch.equal(tensor, fine[name].to(torch.float16)) for name, tensor in tensors(Path("out")).items())
    assert json.loads(Path("out/config.json").read_text())["dtype"] == "float16"


# ---------------------------------------------------------------------------------------------------------------------------------- vocabularies


@pytest.fixture
def strangers(models: Models) -> None:
    """Folders `one` and `two`: one knows <1>, two knows <2> and <1>, so the same token has another id."""
    for name, extra in (("one", ["<1>"]), ("two", ["<2>", "<1>"])):
        tokenizer = make_tokenizer()
        tokenizer.add_tokens(extra)
        make_llama(vocab=len(tokenizer), seed=len(extra)).save_pretrained(name)
        tokenizer.save_pretrained(name)


def joined(source: Any, out: str, weights: tuple[float, float] = (0.5, 0.5)) -> tuple[Any, dict[str, Tensor]]:
    inputs = [{"model": name, "parameters": {"weight": weight}} for name, weight in zip(("one", "two"), weights, strict=True)]
    merge(parse({"merge_method": "linear", "models": inputs} | source, "test"), out, say=quiet)
    from tempering.models.tokens import read_tokenizer

    return read_tokenizer(Path(out)), tensors(Path(out))


def test_each_end_of_a_union_says_what_its_model_says(strangers: None) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for name, weights in (("one", (1.0, 0.0)), ("two", (0.0, 1.0))):
        made, _ = joined({"tokenizer_source": "union"}, f"to-{name}", weights)
        assert set(made.get_vocab()) == {*make_tokenizer().get_vocab(), "<1>", "<2>"}
        own = AutoTokenizer.from_pretrained(name)
        text = "Say <1> and the rest"
        found = AutoModelForCausalLM.from_pretrained(f"to-{name}")(**made(text, return_tensors="pt")).logits[0]
        expected = AutoModelForCausalLM.from_pretrained(name)(**own(text, return_tensors="pt")).logits[0]
        shared = sorted(own.get_vocab())
        places = [[tokenizer.get_vocab()[token] for token in shared] for tokenizer in (made, own)]
        assert torch.allclose(found[:, places[0]], expected[:, places[1]], atol=1e-5)


def test_rows_that_a_model_lacks_and_rules_for_tokens(strangers: None) -> None:
    name = "model.embed_tokens.weight"
    one, two = tensors(Path("one"))[name], tensors(Path("two"))[name]
    made, found = joined({"tokenizer_source": "union"}, "union")
    at = made.get_vocab()
    assert torch.allclose(found[name][at["<2>"]], two[274]), "the only model that has it"
    assert torch.allclose(found[name][at["<1>"]], (one[274] + two[275]) / 2) and len(found[name]) == 276
    made, found = joined({"tokenizer_source": "one"}, "ones")
    assert "<2>" not in made.get_vocab() and len(found[name]) == 275
    rules = {
        "<1>": {"source": "two", "force": True},
        "<2>": {"source": {"kind": "zero"}},
        "<3>": {"source": {"kind": "model_token", "model": "one", "token": "h"}},
    }
    made, found = joined({"tokenizer": {"source": "union", "tokens": rules, "pad_to_multiple_of": 64}}, "ruled")
    at = made.get_vocab()
    assert torch.equal(found[name][at["<1>"]], two[275]) and torch.allclose(found[name][at["<2>"]], two[274] / 2)
    assert torch.allclose(found[name][at["<3>"]], one[at["h"]])
    assert len(found[name]) == 320 and torch.allclose(found[name][300], found[name][:277].mean(0), atol=1e-6)
    assert json.loads(Path("ruled/config.json").read_text())["vocab_size"] == 320
    with pytest.raises(UserError, match="three is asked for, which is no model of this merge"):
        joined({"tokenizer_source": "three"}, "none")
