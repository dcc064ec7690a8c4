"""Ways to forget that are recipes of their own: shards, examples in the prompt, corrupted prompts, soft prompts; each from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tempering as tp
from tempering.cli import main
from tempering.errors import UserError

FEW: dict[str, Any] = {"limit": 8, "max_test": 4, "keep": "none", "again": True}
SMALL: dict[str, Any] = {**FEW, "steps": 2, "batch_size": 4, "precision": "fp32"}


def weights(model: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {str(path.relative_to(model)): load_file(path) for path in sorted(model.rglob("model.safetensors"))}


def same(a: Path, b: Path) -> bool:
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys() and left
    return all(torch.equal(p, right[file][name]) for file, of in left.items() for name, p in of.items())


def told(out: Path) -> dict[str, Any]:
    return json.loads((out / "forgetting.json").read_text())


def test_after_sisa_the_models_are_those_of_a_run_that_never_saw_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = "--steps 2 --batch-size 4 --limit 12 --max-test 4 --keep none --attacks plain --shards 3 --precision fp32 --scope.r 2".split()
    assert main(["run", "sisa", *few, "--out", str(tmp_path / "a")]) == 0
    said = capsys.readouterr()
    assert "12 + 12 rows in 3 shards" in said.out + said.err
    # Other rows are forgotten, the same stay: what answers afterwards is the same to the bit, so it holds nothing of either.
    one = tmp_path / "one.jsonl"
    one.write_text(json.dumps({"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Nobody."}]}) + "\n")
    assert main(["run", "sisa", *few, "--out", str(tmp_path / "b"), "--forget", str(one)]) == 0
    assert same(tmp_path / "a" / "model", tmp_path / "b" / "model")
    assert not same(tmp_path / "a" / "knowing", tmp_path / "a" / "model")
    again = {path.name for path in (tmp_path / "b").glob("shard-*-again")}
    assert len(again) == 1, "one row, one shard"
    # A shard that held none of the rows is not touched.
    left = [k for k in range(3) if f"shard-{k}-again" not in again]
    now, then = weights(tmp_path / "b" / "model"), weights(tmp_path / "b" / "knowing")
    files = [("" if k == 0 else f"shard{k}/") + "model.safetensors" for k in left]
    assert all(torch.equal(p, then[file][name]) for file in files for name, p in now[file].items())
    found = told(tmp_path / "a")
    assert found["cost"]["unlearning"]["seconds"] > 0 and {leak["attack"] for leak in found["leaks"]} >= {"asked", "weights alone"}


def test_icul_leaves_the_weights_and_stands_in_the_template(tmp_path: Path) -> None:
    report = tp.run("icul", out=tmp_path / "a", **FEW, gone=3, shown=2, attacks="plain")
    model = tp.load(str(tmp_path / "a" / "model"), say=lambda _: None)
    start = tp.load("builtin:tiny", say=lambda _: None)
    assert all(torch.equal(p, q) for p, q in zip(model.model.parameters(), start.model.parameters(), strict=True))
    assert model.tokenizer.chat_template.endswith(start.tokenizer.chat_template) and model.tokenizer.chat_template != start.tokenizer.chat_template
    (alone,) = [leak for leak in told(tmp_path / "a")["leaks"] if leak["attack"] == "weights alone"]
    assert alone["before"] == alone["after"], "without the examples the old model answers"
    assert report.ledger.probes
    # Without examples nothing changes at all.
    tp.run("icul", out=tmp_path / "b", **FEW, gone=0, shown=0, attacks="plain")
    before, after = (json.loads((tmp_path / "b" / f"{name}.scores.json").read_text())["probes"] for name in ("before", "after"))
    assert before == after
    with pytest.raises(UserError, match=r"the 80 examples take \d+ of the 1024 tokens"):
        tp.run("icul", out=tmp_path / "c", **{**FEW, "limit": 40}, gone=40, shown=40, attacks="none")


class Stopped(Exception):
    """Somebody pulled the plug."""


def stops(*args: Any, **kwargs: Any) -> Any:
    raise Stopped


def test_a_stopped_eco_run_goes_on_to_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few: dict[str, Any] = {**FEW, "search_steps": 1, "attacks": "plain"}
    tp.run("eco", out=tmp_path / "whole", **few)
    with monkeypatch.context() as broken:
        broken.setattr("tempering.forgetting.corrupt.search", stops)
        with pytest.raises(Stopped):
            tp.run("eco", out=tmp_path / "cut", **few)
    before = (tmp_path / "cut" / "before.scores.json").stat().st_mtime_ns
    tp.run("eco", resume=tmp_path / "cut", **few)
    assert (tmp_path / "cut" / "before.scores.json").stat().st_mtime_ns == before, "what was measured is not measured again"
    assert same(tmp_path / "whole" / "model", tmp_path / "cut" / "model")
    assert told(tmp_path / "whole") == told(tmp_path / "cut")
    decode = [json.loads((tmp_path / run / "model" / "policy.json").read_text())["decode"] for run in ("whole", "cut")]
    assert decode[0] == decode[1]


def test_a_stopped_spul_run_goes_on_in_its_training_and_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few: dict[str, Any] = {**SMALL, "steps": 3, "save_every": 1, "attacks": "plain", "tokens": 4}
    tp.run("spul", out=tmp_path / "whole", **few)

    def cut_at(place: str, out: Path) -> None:
        with monkeypatch.context() as broken:
            broken.setattr(place, stops)
            with pytest.raises(Stopped):
                tp.run("spul", **{"resume" if out.exists() else "out": out}, **few)

    cut = tmp_path / "cut"
    whole = load_file(tmp_path / "whole" / "model" / "adapter_model.safetensors")
    cut_at("tempering.fit.evaluate", cut)
    assert sorted(p.name for p in (cut / "checkpoints").glob("step-*")) and not (cut / "model").exists()
    cut_at("tempering.forgetting.verdict.verdict", cut)
    assert (cut / "after.scores.json").exists() and not (cut / "forgetting.json").exists()
    tp.run("spul", resume=cut, **few)
    found = load_file(cut / "model" / "adapter_model.safetensors")
    assert found.keys() == whole.keys() and all(torch.equal(p, whole[name]) for name, p in found.items())
    assert told(cut)["leaks"] == told(tmp_path / "whole")["leaks"]


@pytest.mark.parametrize("name", ["rmu", "spul", "memflex", "tool_delete", "sisa", "federated"])
def test_each_can_be_planned(name: str) -> None:
    assert tp.plan(name, model="builtin:tiny", limit=8, batch_size=4).peak > 0


@pytest.mark.parametrize("name", ["icul", "l_codec", "code_unlearn"])
def test_what_trains_nothing_says_so(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} trains nothing, so there is nothing to plan"):
        tp.plan(name, model="builtin:tiny", limit=8)


def test_a_client_who_leaves_is_out_of_the_average(tmp_path: Path) -> None:
    few: dict[str, Any] = {**SMALL, "limit": 12, "attacks": "none", "clients": 3}
    one = tmp_path / "one.jsonl"
    one.write_text(json.dumps({"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Nobody."}]}) + "\n")
    # After the only round what is left is the mean over the others, whoever left.
    for out, forget in (("a", "builtin:authors-forget"), ("b", str(one))):
        tp.run("federated", out=tmp_path / out, **few, forget=forget, rounds=1, recalibrate=0)
    a, b = (weights(tmp_path / out / "model")["model.safetensors"] for out in ("a", "b"))
    assert all(torch.allclose(p, b[name], atol=1e-7) for name, p in a.items())
    clients = [weights(tmp_path / "a" / f"round-0-client-{c}" / "model")["model.safetensors"] for c in (1, 2)]
    rows = [json.loads((tmp_path / "a" / f"round-0-client-{c}" / "spent.json").read_text())["tokens"] for c in (1, 2)]
    assert all(rows) and not same(tmp_path / "a" / "knowing", tmp_path / "a" / "model")
    for name, p in a.items():
        low, high = (torch.stack([of[name] for of in clients]).amin(0), torch.stack([of[name] for of in clients]).amax(0))
        assert bool(((p >= low - 1e-6) & (p <= high + 1e-6)).all()), name
    tp.run("federated", out=tmp_path / "c", **few, rounds=2, recalibrate=1)
    assert {p.name for p in (tmp_path / "c").glob("round-2-*")} == {"round-2-client-1", "round-2-client-2"}, "who left takes no part any more"


def test_one_newton_step_moves_the_chosen_units_alone(tmp_path: Path) -> None:
    tp.run("l_codec", out=tmp_path / "a", **FEW, units=2, draws=16, examples=4, attacks="none")
    chosen = json.loads((tmp_path / "a" / "units.json").read_text())
    now = weights(tmp_path / "a" / "model")["model.safetensors"]
    start = dict(tp.load("builtin:tiny", say=lambda _: None).model.named_parameters())
    moved = {name: sorted({int(i) for i in (p - start[name]).nonzero()[:, 0]}) for name, p in now.items() if not torch.equal(p, start[name])}
    assert moved == chosen and 1 <= sum(map(len, chosen.values())) <= 2
    tp.run("l_codec", out=tmp_path / "b", **FEW, units=0, draws=16, examples=4, attacks="none")
    still = weights(tmp_path / "b" / "model")["model.safetensors"]
    assert all(torch.equal(p, start[name]) for name, p in still.items()), "without units nothing moves, to the bit"


def test_codes_that_the_forget_rows_use_more_are_taken_out(tmp_path: Path) -> None:
    few: dict[str, Any] = {**FEW, "codes": 24, "top": 3, "learn_steps": 2, "layers": (1, 3), "attacks": "plain"}
    tp.run("code_unlearn", out=tmp_path / "a", **few, most=0)
    before, after = (json.loads((tmp_path / "a" / f"{name}.scores.json").read_text())["probes"] for name in ("before", "after"))
    assert before == after, "without a code taken out nothing changes"
    tp.run("code_unlearn", out=tmp_path / "b", **few, most=5, enriched=0.1)
    chosen = json.loads((tmp_path / "b" / "codes.json").read_text())
    book = load_file(tmp_path / "b" / "model" / "codebook.safetensors")
    assert [of["layer"] for of in chosen] == [1, 3] and any(of["out"] for of in chosen)
    for of in chosen:
        assert len(of["out"]) <= 5 and all(of["forget"][c] > of["retain"][c] for c in of["out"])
        assert sum(of["forget"]) == pytest.approx(3) and sum(of["retain"]) == pytest.approx(3)
        alive = book[f"model.layers.{of['layer']}.mlp.codebook.alive_K"].tolist()
        assert [c for c in range(24) if not alive[c]] == sorted(of["out"])
    now, start = (weights(tmp_path / run / "model")["model.safetensors"] for run in ("a", "b"))
    assert now.keys() == start.keys() and all(torch.equal(p, start[name]) for name, p in now.items()), "the weights stay as they are"
    with pytest.raises(UserError, match="--codes 24, --most 22: 2 would be left, and --top 3 are chosen"):
        tp.run("code_unlearn", out=tmp_path / "c", **few, most=22)


def test_other_rows_in_the_same_file_are_another_run(tmp_path: Path) -> None:
    from tempering.experiment import Experiment, Report
    from tempering.forgetting.attacked import Request
    from tempering.options import OPTIONS, Options

    def recipe(request: Request) -> Report:
        raise NotImplementedError

    rows, keys = tmp_path / "rows.jsonl", []
    for i, text in enumerate(("one", "two")):
        rows.write_text(text)
        token = OPTIONS.set(Options(out=tmp_path / str(i)))
        keys.append(Experiment.begin(recipe, {"request": Request(forget=str(rows))}).key)
        OPTIONS.reset(token)
    assert keys[0] != keys[1]
