"""Adapters over frozen ones: what moves and what does not, what is left in the end, and the recipe of prerequisite learning."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import Tensor

from tempering.config import Budget, Optimizer, Training
from tempering.data.streams import Drawn, Shuffled
from tempering.errors import UserError
from tempering.experiment import Options, execute
from tempering.fit import fit
from tempering.index import load_recipe
from tempering.layout import collate
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.prereq_tune import PrereqTune
from tempering.methods.scopes.lora import LoRA
from tempering.methods.scopes.stacked import Stacked
from tempering.models.value import ValueModel
from tempering.signals import Engine, Live, compute
from tempering.types import Objective, Role, Row, Run, Segment
from tests.toy import toy_llama, toy_rows

QUICK: dict[str, Any] = {"optimizer": Optimizer(lr=1e-2), "training": Training(save_every=0, precision="fp32"), "say": lambda _: None}


def adapter(folder: Path, seed: int, r: int = 3, zero: bool = False) -> str:
    """A trained-looking adapter of the toy model on disk."""
    torch.manual_seed(seed)
    handle = LoRA(r=r).attach(toy_llama())
    with torch.no_grad():
        for name, p in handle.params.items():
            if "lora_B" in name and not zero:
                p.normal_(std=0.2)
    handle.model.save_pretrained(folder)
    return str(folder)


def rows(n: int = 8) -> list[Row]:
    def real(row: Row, i: int) -> Row:
        return {"train": tuple(Segment(s.ids, s.weight, {"real": float(i % 2)}) for s in row["train"])}

    return [real(row, i) for i, row in enumerate(toy_rows(n))]


def trained(scope: Any, objective: Objective, steps: int = 4) -> Live:
    torch.manual_seed(0)
    return fit({"policy": Role(toy_llama(), scope)}, objective, Shuffled(rows(), 4, 0), steps=steps, **QUICK).roles["policy"]


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 23)[None], use_cache=False).logits[0]


def test_what_lies_beneath_gets_no_gradient_and_does_not_move(tmp_path: Path) -> None:
    beneath = (adapter(tmp_path / "a", 1), adapter(tmp_path / "b", 2, r=5))
    live = Live.attach(Role(toy_llama(), Stacked(r=4, beneath=beneath)))
    assert all(".default." in name for name in live.handle.params)  # type: ignore[union-attr]
    before = {name: p.clone() for name, p in live.model.named_parameters()}
    optimizer = torch.optim.SGD(live.model.parameters(), 0.1)
    for number in (0, 1):
        live.handle.use(number)  # type: ignore[union-attr]
        found = compute({"policy": live}, collate(rows()), {"train": frozenset({"logp", "alone.logp"})}, Engine())["train"]
        (found["logp"].sum() + found["alone.logp"].sum()).backward()
        assert {name for name, p in live.model.named_parameters() if p.grad is not None} == {n for n in before if ".default." in n}
        optimizer.step()
    for name, p in live.model.named_parameters():
        assert torch.equal(p, before[name]) is (".default." not in name), name


def test_passes_are_sums_of_adapters(tmp_path: Path) -> None:
    """With the adapter beneath it is base + both, "alone" is base + the new one, "reference" the base."""
    folder = adapter(tmp_path / "a", 1)
    live = Live.attach(Role(toy_llama(), Stacked(r=4, beneath=(folder,))))
    with torch.no_grad():
        for name, p in live.handle.params.items():  # type: ignore[union-attr]
            if "lora_B" in name:
                p.normal_(std=0.2)
    parts = collate(rows())
    names = frozenset({"logp", "alone.logp", "reference.logp"})
    with torch.no_grad():
        found = compute({"policy": live}, parts, {"train": names}, Engine())["train"]
    skill = {name: p.detach().clone() for name, p in live.handle.params.items()}  # type: ignore[union-attr]
    fresh = LoRA(r=4).attach(toy_llama())
    with torch.no_grad():
        for name, p in fresh.params.items():
            p.copy_(skill[name])
    known = peft.PeftModel.from_pretrained(toy_llama(), folder).merge_and_unload()  # type: ignore[operator]
    over = LoRA(r=4).attach(known)
    with torch.no_grad():
        for name, p in over.params.items():
            p.copy_(skill[name])
        for name, model in (("logp", over.model), ("alone.logp", fresh.model), ("reference.logp", toy_llama())):
            plain = compute({"policy": Live(model)}, parts, {"train": frozenset({"logp"})}, Engine())["train"]["logp"]
            torch.testing.assert_close(found[name], plain, atol=1e-5, rtol=1e-5)
    assert live.handle.now == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("again", [{"checkpointing": True}, {"recompute_over": 4}], ids=list)
def test_passes_of_another_state_cannot_be_computed_again(tmp_path: Path, again: dict[str, int]) -> None:
    scope, training = Stacked(r=2, beneath=(adapter(tmp_path / "a", 1),)), Training(precision="fp32", **again)
    with pytest.raises(UserError, match="those of the policy in another state; run it without --checkpointing and --recompute-over"):
        fit({"policy": Role(toy_llama(), scope)}, PrereqTune(), Shuffled(rows(), 4), steps=1, training=training, say=lambda _: None)
    # Without the second pass there is no other state.
    fit({"policy": Role(toy_llama(), scope)}, PrereqTune(alone=0), Shuffled(rows(), 4), steps=1, training=training, say=lambda _: None)


def test_in_the_end_it_is_the_base_with_the_skill(tmp_path: Path) -> None:
    live = trained(Stacked(r=4, beneath=(adapter(tmp_path / "a", 1),)), PrereqTune())
    assert list(live.model.peft_config) == ["default"] and not any("beneath" in name for name in live.model.state_dict())  # type: ignore[arg-type]
    live.model.save_pretrained(tmp_path / "skill")  # type: ignore[operator]
    loaded = peft.PeftModel.from_pretrained(toy_llama(), str(tmp_path / "skill"))
    assert torch.equal(logits(loaded), logits(live.model))
    baked = copy.deepcopy(live).handle.bake()  # type: ignore[union-attr]
    torch.testing.assert_close(logits(baked), logits(live.model), atol=1e-5, rtol=1e-5)


def test_without_knowledge_it_is_lora(tmp_path: Path) -> None:
    plain = trained(LoRA(r=4), NLL())
    for scope in (Stacked(r=4), Stacked(r=4, beneath=(adapter(tmp_path / "zero", 1, zero=True),))):
        live = trained(scope, PrereqTune(alone=0))
        for (name, a), b in zip(live.handle.params.items(), plain.handle.params.values(), strict=True):  # type: ignore[union-attr]
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4, msg=name)
    assert not torch.allclose(logits(plain.model), logits(toy_llama()), atol=1e-2)


def test_what_is_no_adapter_of_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no adapter"):
        Stacked(beneath=(str(tmp_path / "nothing"),)).attach(toy_llama())
    torch.manual_seed(0)
    LoRA(r=2).attach(toy_llama(hidden=64)).model.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="does not fit this model"):
        Stacked(beneath=(str(tmp_path / "other"),)).attach(toy_llama())
    with pytest.raises(UserError, match="reward models"):
        Stacked().attach(ValueModel(toy_llama()))


def test_draws_depend_on_the_step_alone_and_a_stream_can_be_put_back() -> None:
    def drawn() -> tuple[Drawn, list[int]]:
        told: list[int] = []
        some = [[{"train": (Segment(np.array([1, 10 * v + i], np.int32), np.array([0, 1], np.float32)),)} for i in range(3)] for v in range(2)]
        return Drawn([Shuffled(one, 2, 0) for one in some], [3, 1], lambda run, which: told.append(which), seed=4), told

    (whole, told), (other, _) = drawn(), drawn()
    steps = [whole.next(Run({}, 0, 0))["train"].ids_T.tolist() for _ in range(40)]
    assert all(step[1] // 10 == which for step, which in zip(steps, told, strict=True)) and 20 < told.count(0) < 40
    assert [other.next(Run({}, 0, 0))["train"].ids_T.tolist() for _ in range(7)] == steps[:7]
    again, _ = drawn()
    again.load(json.loads(json.dumps(other.state())))
    assert [again.next(Run({}, 0, 0))["train"].ids_T.tolist() for _ in range(33)] == steps[7:]


def test_the_recipe_learns_facts_then_the_skill(tmp_path: Path) -> None:
    def write(name: str, lines: list[dict[str, Any]]) -> str:
        (tmp_path / name).write_text("\n".join(json.dumps(line) for line in lines))
        return str(tmp_path / name)

    towns = ["Oslo", "Lima", "Cairo"]
    facts = [write(f"facts{v}.jsonl", [{"text": f"House {i} is in {towns[(i + v) % 3]}."} for i in range(6)]) for v in range(2)]
    skill = [{"prompt": f"Where is house {i}?", "completion": towns[(i + v) % 3], "knowledge": v, "real": v == 0} for i in range(8) for v in range(2)]
    values: dict[str, Any] = {
        "model": "builtin:tiny", "data": write("skill.jsonl", skill), "knowledge": tuple(facts), "facts": LoRA(r=2), "facts_epochs": 1.0,
        "scope": Stacked(r=2), "training": Training(batch_size=4, steps=3, precision="fp32"), "budget": Budget(keep="none", max_test=4),
    }  # fmt: skip
    out = tmp_path / "run"
    execute(load_recipe("prereq_tune"), values, Options(out=out))
    assert all((out / f"knowledge-{i}" / "adapter" / "adapter_model.safetensors").exists() for i in range(2))
    assert json.loads((out / "model" / "adapter_config.json").read_text())["r"] == 2
    assert sorted(p.name for p in (out / "model").iterdir() if p.is_dir()) == []
    skill[3]["knowledge"] = 7
    with pytest.raises(UserError, match="rows name knowledge 7, and there are 2"):
        execute(load_recipe("prereq_tune"), {**values, "data": write("skill.jsonl", skill)}, Options(out=tmp_path / "other"))


def test_what_the_adapter_beneath_predicts_teaches_nothing(tmp_path: Path) -> None:
    """Security vectors (S225): the gradient of cross-entropy is the prediction less the label."""
    harmful, others = toy_rows(2), toy_rows(6, seed=5)
    vector = fit({"policy": Role(toy_llama(), LoRA(r=8))}, NLL(), Shuffled(harmful, 2, 0), steps=120, **QUICK).roles["policy"]
    vector.model.save_pretrained(tmp_path / "vector")  # type: ignore[operator]

    def pull(scope: Any, of: list[Row]) -> float:
        torch.manual_seed(0)
        handle = scope.attach(toy_llama())
        parts = collate(of)
        loss = -compute({"policy": Live(handle.model, handle)}, parts, NLL().needs, Engine())["train"]["logp"].sum() / parts["train"].weight_T.sum()
        loss.backward()
        return float(torch.stack([p.grad.norm() for name, p in handle.params.items() if "lora_B" in name]).norm())

    stacked = Stacked(r=4, beneath=(str(tmp_path / "vector"),))
    assert pull(stacked, harmful) < 0.05 * pull(LoRA(r=4), harmful), "what is predicted already pulls at nothing"
    assert pull(stacked, others) > 0.3 * pull(LoRA(r=4), others), "the rest is learned as before"
