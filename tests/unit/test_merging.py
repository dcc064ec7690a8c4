"""Weights read lazily and written in shards, mergekit's files turned into plans, merges that go on where they were killed, and `temper merge`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tempering.cli import main
from tempering.errors import UserError
from tempering.home import sha256_file
from tempering.merging import write as writing
from tempering.merging.config import evaluate, parse, read_config
from tempering.merging.plan import make_plan
from tempering.merging.read import open_weights
from tempering.merging.run import merge
from tests.conftest import make_llama, make_tokenizer

Models = dict[str, Path]


def quiet(text: str) -> None:
    pass


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Models:
    """A base and two changes of it, in bfloat16 folders `m`, `a`, `b`; the working folder is theirs."""
    monkeypatch.chdir(tmp_path)
    base = make_llama()
    found = {}
    for seed, name in enumerate("mab"):
        model = make_llama()
        torch.manual_seed(seed)
        with torch.no_grad():
            for p, q in zip(model.parameters(), base.parameters(), strict=True):
                p.copy_(q + 0.05 * seed * torch.randn_like(p))
        model.to(torch.bfloat16).save_pretrained(tmp_path / name)
        make_tokenizer().save_pretrained(tmp_path / name)
        found[name] = tmp_path / name
    return found


def tensors(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


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


# ---------------------------------------------------------------------------------------------------------------------------------- temper merge


def temper(capsys: pytest.CaptureFixture[str], line: str) -> tuple[int, str, str]:
    code = main(shlex.split(line))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_flags_are_the_same_as_a_file(models: Models, capsys: pytest.CaptureFixture[str]) -> None:
    line = 'merge a b --base m --method ties --density 0.5,0.25 --lambda 0.7 --weight "[0.2, 1]" --normalize false --keep none --out one'
    assert temper(capsys, line) == (0, "wrote one\n", "")
    Path("c.yaml").write_text("""
merge_method: ties
base_model: m
models: [{model: a, parameters: {density: 0.5}}, {model: b, parameters: {density: 0.25}}]
parameters: {lambda: 0.7, weight: [0.2, 1], normalize: false}
""")
    assert temper(capsys, "merge c.yaml --keep none --out two")[0] == 0
    assert (Path("one") / "model.safetensors").read_bytes() == (Path("two") / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("merge --out o", "temper merge needs models, or a mergekit file"),
        ("merge a b --out o --densty 1 --method ties --base m", "no flag --densty, and ties has no such setting; did you mean 'density'"),
        ("merge a b --out o --weight 1,2,3", "3 values for 2 models"),
        ("merge a b --out o --t 1,2 --method slerp", "slerp has one t for all models"),
        ("merge a b --out o --weight much", "expected a number"),
        ("merge a b --out o --shard-size lots", "--shard-size lots: expected a size"),
        ("merge a b --out m", "m is there already"),
        ("merge c.yaml --method ties --out o", "says what is merged and how"),
        ("merge nothere b --out o", "no folder nothere here|no file or folder nothere"),
    ],
)
def test_wrong_flags_are_one_sentence(models: Models, capsys: pytest.CaptureFixture[str], line: str, sentence: str) -> None:
    import re

    code, out, err = temper(capsys, line)
    assert code == 2 and not out and re.search(sentence, err) and err.count("\n") == 1
    assert not Path("o").exists()


def test_a_merge_ends_in_a_ledger_against_each_parent(models: Models, capsys: pytest.CaptureFixture[str]) -> None:
    Path("texts.jsonl").write_text("".join(json.dumps({"id": f"t{i}", "text": f"Some text number {i} to be predicted."}) + "\n" for i in range(6)))
    items = [{"id": f"q{i}", "question": f"{i}?", "choices": ["yes", "no", "it is"], "answer": i % 3} for i in range(9)]
    Path("items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    line = "merge a b --out out --keep none --probe perplexity:texts.jsonl --probe multiple_choice:items.jsonl --json l.json"
    code, out, _ = temper(capsys, line)
    ledgers = json.loads(Path("l.json").read_text())
    assert code == 0 and [(one["before_model"], one["after_model"]) for one in ledgers] == [("a", "out"), ("b", "out")]
    for one in ledgers:
        probe = next(p for p in one["probes"] if p["kind"] == "binary")
        kept, lost = len(probe["kept_ids"]), len(probe["lost_ids"])
        assert f"({kept} of {kept + lost})" in out if kept + lost else "no item was right" in out


def test_the_way_between_two_models_is_measured_and_drawn(models: Models, capsys: pytest.CaptureFixture[str]) -> None:
    items = [{"id": f"q{i}", "question": f"{i}?", "choices": ["yes", "no", "it is"], "answer": i % 3} for i in range(9)]
    Path("items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    code, out, _ = temper(capsys, 'merge a b --method slerp --along "t=0 0.5 1" --probe multiple_choice:items.jsonl --out way')
    assert code == 0 and sorted(path.name for path in Path("way").iterdir()) == ["path.svg", "t-0", "t-0.5", "t-1"]
    for name, parent in (("t-0", "a"), ("t-1", "b")):
        made = tensors(Path("way") / name)
        assert all(torch.equal(tensor, made[key]) for key, tensor in tensors(models[parent]).items()), "the ends are the models"
    lines = out.splitlines()
    assert [line.split(":")[0] for line in lines[:5]] == ["a", "t 0", "t 0.5", "t 1", "b"]
    assert lines[0].partition(":")[2] == lines[1].partition(":")[2] and lines[3].partition(":")[2] == lines[4].partition(":")[2]
    assert Path("way/path.svg").read_text().count("<circle") == 5
    assert temper(capsys, "merge a b --method slerp --along t --out other")[0] == 2


# ----------------------------------------------------------------------------------------------------------------------------- merging with data


def talks(path: str, *said: str) -> str:
    rows = [{"messages": [{"role": "user", "content": f"What is {i}?"}, {"role": "assistant", "content": text}]} for i, text in enumerate(said)]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEMPERING_HOME", str(tmp_path / "store"))
    return tmp_path / "store"


def test_fisher_information_is_that_of_the_models_own_answers(models: Models, store: Path) -> None:
    """Against every possible answer in turn, weighted by how likely the model gives it: exact for one scored token, where draws have a mean."""
    from tempering.data import read, sft_row
    from tempering.merging.known import fisher
    from tempering.models import load

    policy = load("a", say=quiet)
    (row,) = [sft_row(record, policy.tokenizer) for record in read(talks("one.jsonl", "x"), say=quiet)]
    (segment,) = row["train"]  # type: ignore[index]
    scored = int(segment.weight.nonzero()[0][0])
    weight = segment.weight * 0
    weight[scored] = 1
    one = {"train": (type(segment)(segment.ids, weight),)}
    found = fisher(policy, [one] * 500)["model.norm.weight"]
    logp = policy.model(torch.tensor(segment.ids)[None]).logits[0, scored - 1].log_softmax(-1)
    expected = torch.zeros_like(found)
    for token in range(len(logp)):
        (gradient,) = torch.autograd.grad(logp[token], policy.model.model.norm.weight, retain_graph=True)  # type: ignore[arg-type, union-attr]
        expected += logp[token].exp().detach() * gradient.square()
    assert float((found - expected).norm() / expected.norm()) < 0.25
    assert fisher(policy, [one])["model.norm.weight"].equal(fisher(policy, [one])["model.norm.weight"])


def test_what_data_say_is_computed_once_and_a_layer_becomes_least_squares(models: Models, store: Path) -> None:
    from transformers import AutoModelForCausalLM

    rows = [talks("one.jsonl", "some words here", "and there"), talks("two.jsonl", "quite other things", "0 1 2 3")]
    inputs = [{"model": name, "calibrate": data} for name, data in zip("ab", rows, strict=True)]
    config = parse({"merge_method": "regmean", "models": inputs, "parameters": {"alpha": 1.0}, "dtype": "float32"}, "test")
    said: list[str] = []
    merge(config, "out", say=said.append)
    assert sum("looking at" in line for line in said) == 2 and len(list((store / "statistics").iterdir())) == 2
    merge(config, "again", say=said.append)
    assert sum("looking at" in line for line in said) == 2
    out, name = tensors(Path("out")), "model.layers.0.self_attn.q_proj.weight"
    xs, ys = [], []
    for model, data in zip("ab", rows, strict=True):
        from tempering.data import read, sft_row
        from tempering.models import load

        policy = load(model, say=quiet)
        layer = policy.model.get_submodule(name.removesuffix(".weight"))
        seen: list[Tensor] = []
        hook = layer.register_forward_hook(lambda module, args, result, seen=seen: seen.append((args[0][0], result[0])))  # type: ignore[misc, func-returns-value]
        for record in read(data, say=quiet):
            (segment,) = sft_row(record, policy.tokenizer)["train"]  # type: ignore[index]
            with torch.no_grad():
                policy.model(torch.tensor(segment.ids)[None])
        hook.remove()
        xs += [x for x, _ in seen]  # type: ignore[misc]
        ys += [y for _, y in seen]  # type: ignore[misc]
    x, y = torch.cat(xs).double(), torch.cat(ys).double()
    best = float((x @ torch.linalg.lstsq(x, y, driver="gelsd").solution - y).square().sum())
    assert float((x @ out[name].double().T - y).square().sum()) == pytest.approx(best, rel=1e-2)
    mean = (tensors(models["a"])[name].double() + tensors(models["b"])[name].double()) / 2
    assert float((x @ mean.T - y).square().sum()) > 1.05 * best
    a, b = (tensors(models[one])["model.norm.weight"].float() for one in "ab")
    assert torch.allclose(out["model.norm.weight"], (a + b) / 2)
    assert AutoModelForCausalLM.from_pretrained("out")(torch.tensor([[1, 2]])).logits.isfinite().all()


def test_an_adapter_is_looked_at_folded_in_and_one_model_has_one_file(models: Models, store: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    from tempering.merging.known import known_of

    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(AutoModelForCausalLM.from_pretrained("m", dtype=torch.float32), config)
    wrapped.save_pretrained("adapter")
    wrapped.merge_and_unload().save_pretrained("folded")
    make_tokenizer().save_pretrained("folded")
    rows = talks("r.jsonl", "some words here")
    inputs = [{"model": name, "calibrate": rows} for name in ("adapter", "folded")]
    names = ("m+adapter", "adapter", "folded")
    for method in ("fisher", "regmean"):
        given = {"merge_method": method, "models": [{"model": name} for name in names], "calibrate": rows}
        known = known_of(parse(given, "test"), {name: open_weights(name, quiet) for name in names}, quiet)
        *adapted, other = ({key: known[name].read(key) for key in known[name].metas} for name in names)
        for one in adapted:
            assert one.keys() == other.keys() and "model.layers.0.self_attn.q_proj.weight" in one
            assert all(float((one[key] - other[key]).norm()) <= 1e-3 * float(other[key].norm()) for key in one)
    twice = [*inputs, {"model": "folded", "calibrate": "other.jsonl"}]
    with pytest.raises(UserError, match="folded is named twice"):
        known_of(parse({"merge_method": "fisher", "models": twice}, "test"), {}, quiet)


def test_a_greedy_soup_is_never_worse_than_its_best_and_a_search_than_its_start(
    models: Models, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talks("held.jsonl", "some words here", "and there")
    code, out, _ = temper(capsys, "merge a b m --greedy --held held.jsonl --keep none --out soup")
    tried = json.loads(Path("soup/tried.json").read_text())
    assert code == 0 and [one["models"] for one in tried[:3]] == [["a"], ["b"], ["m"]] and len(tried) == 5
    best = min(tried, key=lambda one: one["loss"])
    assert best["loss"] <= min(one["loss"] for one in tried[:3])
    assert json.loads(Path("soup/policy.json").read_text())["merge"]["models"] == [{"model": name, "parameters": {}} for name in best["models"]]
    line = 'merge a b --search "weight=0..1" --budget 7 --held held.jsonl --keep none --out found'
    code, out, _ = temper(capsys, line)
    tried = json.loads(Path("found/tried.json").read_text())
    best = min(tried, key=lambda one: one["loss"])
    assert code == 0 and len(tried) == 7 and tried[0]["weight"] == [1, 1, 1, 1] and tried[1]["weight"] == [0.5, 1, 1, 1]
    assert [one["parameters"]["weight"] for one in json.loads(Path("found/policy.json").read_text())["merge"]["models"]] == [
        best["weight"][:2],
        best["weight"][2:],
    ]
    assert f"the best of 7 merges has a loss of {best['loss']:.4f}, the first {tried[0]['loss']:.4f}" in out
    looked = [talks(f"{name}.jsonl", f"words of {name}") for name in "abm"]
    line = "merge a b m --method fisher --greedy --held held.jsonl --keep none --out sure"
    assert temper(capsys, line + "".join(f" --calibrate {file}" for file in looked))[0] == 0
    for one in json.loads(Path("sure/policy.json").read_text())["merge"]["models"]:
        assert one["calibrate"] == f"{one['model']}.jsonl"
    assert not [path for path in Path().iterdir() if path.name.startswith((".soup", ".found", ".sure"))]


def test_the_least_of_a_bowl_is_found_within_bounds() -> None:
    from tempering.merging.search import greedy, search

    tried = search([1.0, 1.0], 0, 1, lambda at: (at[0] - 0.3) ** 2 + (at[1] + 1) ** 2, 80)
    best = min(tried, key=lambda one: one.loss)
    assert len(tried) <= 80 and best.what == pytest.approx((0.3, 0), abs=1e-3) and all(0 <= value <= 1 for one in tried for value in one.what)
    losses = {("a",): 2, ("b",): 1, ("c",): 3, ("b", "a"): 1.5, ("b", "c"): 1}
    assert [one.what for one in greedy("abc", losses.__getitem__)] == [("a",), ("b",), ("c",), ("b", "a"), ("b", "c")]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("merge a b --out o --method fisher", "fisher looks at data: give rows with --calibrate"),
        ("merge a b --out o --calibrate r.jsonl", "linear looks at no data; leave --calibrate out"),
        ("merge a b --out o --method fisher --calibrate r --calibrate r --calibrate r", "3 files for 2 models"),
        ("merge a b --out o --greedy", "with --held ROWS"),
        ("merge a b --out o --held r.jsonl", "--held is what --greedy and --search choose by"),
        ("merge a b --out o --held r.jsonl --search t=0..1", "--search t=0..1: expected one of linear's settings"),
    ],
)
def test_wrong_flags_of_merges_with_data_are_one_sentence(models: Models, capsys: pytest.CaptureFixture[str], line: str, sentence: str) -> None:
    talks("r.jsonl", "some")
    code, out, err = temper(capsys, line)
    assert code == 2 and not out and sentence in err and err.count("\n") == 1
    assert not Path("o").exists()
