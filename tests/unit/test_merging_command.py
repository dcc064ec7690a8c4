"""`temper merge`: by flags, by a file, and with data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tempering.errors import UserError
from tempering.merging.config import parse
from tempering.merging.read import open_weights
from tempering.merging.run import merge
from tests.conftest import make_tokenizer
from tests.unit.cli_cases import temper
from tests.unit.merging_cases import Models, quiet, tensors, three


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Models:
    return three(tmp_path, monkeypatch)


# ---------------------------------------------------------------------------------------------------------------------------------- temper merge


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
