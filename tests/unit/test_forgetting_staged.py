"""Forgetting in stages: arithmetic on weights, an assistant beside the model, and how they are saved and loaded."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tempering.errors import UserError
from tempering.forgetting.staged import beside, first_layers, negated, restored
from tempering.methods.decodes.logit_difference import LogitDifference
from tempering.methods.objectives.tool_delete import ToolDelete
from tempering.methods.objectives.uld import ULD
from tempering.methods.scopes.full import Full
from tempering.methods.scopes.lora import LoRA
from tempering.models import load, save
from tempering.sample import sample
from tempering.types import Policy
from tests.conftest import make_llama, make_tokenizer


def moved(scope: str) -> tuple[dict[str, Tensor], Policy, dict[str, Tensor]]:
    """(weights before, the policy after something trained, plain weights after)."""
    model = make_llama()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    handle: Any = (LoRA(r=2) if scope == "lora" else Full()).attach(model)
    with torch.no_grad():
        for p in handle.params.values():
            p.add_(0.1 * torch.randn_like(p))
    plain = handle.bake() if scope == "full" else copy.deepcopy(handle.model).merge_and_unload()
    assert plain is not None
    return before, Policy(handle.model, make_tokenizer(), handle=handle), {name: p.detach().clone() for name, p in plain.named_parameters()}


@pytest.mark.parametrize("scope", ["lora", "full"])
def test_a_task_vector_goes_the_other_way_weight_by_weight(scope: str) -> None:
    before, tuned, after = moved(scope)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    kept = negated(before, tuned, 0.0)
    assert all(torch.equal(p, before[name]) for name, p in kept.model.named_parameters()), "factor 0 is the start, to the bit"
    whole = negated(before, tuned, -1.0)
    assert all(torch.allclose(p, after[name], atol=1e-6) for name, p in whole.model.named_parameters())
    half = negated(before, tuned, 0.5)
    assert all(torch.allclose(p, 1.5 * before[name] - 0.5 * after[name], atol=1e-6) for name, p in half.model.named_parameters())
    assert half.handle is None and half.model is not tuned.model


def test_the_assistant_is_the_first_layers() -> None:
    model = make_llama()
    layers = model.config.num_hidden_layers
    ids = torch.tensor([[5, 6, 7, 8]])
    small = first_layers(model, 1)
    states = model(ids, output_hidden_states=True).hidden_states[1]
    assert torch.equal(small(ids).logits, model.lm_head(model.model.norm(states)))
    assert first_layers(model, 0).config.num_hidden_layers == max(1, layers // 4)
    with pytest.raises(UserError, match=f"the first {layers + 1} layers, the model has {layers}"):
        first_layers(model, layers + 1)


def differ(target: list[list[float]], assistant: list[list[float]], **how: Any) -> list[list[float]]:
    decode = LogitDifference(**how)
    return decode(torch.zeros(1, 1), {"policy": torch.tensor(target), "assistant": torch.tensor(assistant)}).tolist()


def test_logit_difference_by_hand() -> None:
    target = [[4.0, 3.0, 0.0, -1.0]]
    # e^-1 of the likeliest is the bound: the first two pass.
    assert differ(target, [[2.0, 0.0, -4.0, 8.0]], weight=1.0, threshold=0.36) == [[2.0, 3.0, 0.0, -1.0]]
    # The first falls to -4, so the others are lowered by 4 and stay in order.
    assert differ(target, [[8.0, 0.0, 1.0, 1.0]], weight=1.0, threshold=0.36) == [[-4.0, 3.0, -4.0, -5.0]]
    assert differ(target, [[8.0, 0.0, 1.0, 1.0]], weight=0.5, threshold=0.36, outside="excluded") == [[0.0, 3.0, -torch.inf, -torch.inf]]
    assert differ(target, [[8.0, 0.0, 1.0, 1.0]], weight=1.0, threshold=0.0) == [[-4.0, 3.0, -1.0, -2.0]]
    # At least threshold * V tokens pass: here three of four, though the third is unlikely.
    assert differ([[9.0, 1.0, 0.0, -1.0]], [[1.0, 1.0, 1.0, 1.0]], weight=1.0, threshold=0.9) == [[8.0, 0.0, -1.0, -1.0]]


def test_logit_difference_at_its_limits() -> None:
    torch.manual_seed(0)
    target, assistant = torch.randn(6, 50) * 4, torch.randn(6, 50)
    tokens = torch.zeros(6, 1)
    same = LogitDifference(weight=0.0)(tokens, {"policy": target, "assistant": assistant})
    assert torch.equal(same, target), "weight 0 is the target, exactly"
    flat = assistant[:, :1].expand(6, 50)
    for weight in (0.5, 3.0):
        probs = LogitDifference(weight, threshold=0.0)(tokens, {"policy": target, "assistant": flat}).softmax(-1)
        assert torch.allclose(probs, target.softmax(-1), atol=1e-6), "an assistant without an opinion changes nothing"
        kept = LogitDifference(weight, outside="excluded")(tokens, {"policy": target, "assistant": flat}).softmax(-1)
        among = target.softmax(-1).where(kept > 0, 0.0)
        assert torch.allclose(kept, among / among.sum(-1, keepdim=True), atol=1e-6)
    for weight, threshold in ((-1.0, 0.5), (1.0, 1.5)):
        with pytest.raises(UserError, match="LogitDifference"):
            LogitDifference(weight, threshold)


def test_a_policy_with_an_assistant_is_saved_and_loaded_whole(tmp_path: Path) -> None:
    said: list[str] = []
    start = load(save(Policy(make_llama(), make_tokenizer(), name="start"), tmp_path / "start"), say=said.append)
    weights = {name: p.clone() for name, p in start.model.state_dict().items()}
    assistant = first_layers(start.model, 1)
    handle: Any = LoRA(r=2).attach(assistant)
    with torch.no_grad():
        for p in handle.params.values():
            p.add_(0.5 * torch.randn_like(p))
    policy = beside(start, Policy(handle.model, start.tokenizer, name="x", handle=handle), ULD(subtract=2.0, threshold=0.2))
    assert all(torch.equal(p, weights[name]) for name, p in policy.model.state_dict().items()), "the target does not move"
    prompts = [[5, 6, 7], [9, 10]]
    plain, changed = (sample(p, prompts, max_new_tokens=6, temperature=0.0) for p in (start, policy))
    assert [e[0].ids for e in plain] != [e[0].ids for e in changed], "nothing was subtracted"
    save(policy, tmp_path / "out")
    save(policy, tmp_path / "out")
    again = load(tmp_path / "out", say=said.append)
    assert again.decode == (LogitDifference(2.0, 0.2),)
    assert sample(again, prompts, max_new_tokens=6, temperature=0.0) == changed
    about = json.loads((tmp_path / "out" / "policy.json").read_text())
    assert about["roles"] == ["assistant"] and about["decode"][0]["name"] == "logit_difference"


@pytest.mark.parametrize(
    ("decode", "roles", "sentence"),
    [
        ([{"name": "os", "values": {}}], [], "the decode step 'os' cannot be made"),
        ([{"name": "logit_difference", "values": {"shout": 1}}], [], "cannot be made"),
        ([{"name": "logit_difference", "values": {"weight": "a"}}], [], "cannot be made"),
        ([{"name": "logit_difference", "values": {"role": "../start"}}], ["../start"], "needs a model '../start'"),
        ([{"name": "mixture", "values": {}}], ["other"], "needs a model 'other'"),
    ],
)
def test_a_chain_that_does_not_fit_is_one_sentence(tmp_path: Path, decode: object, roles: object, sentence: str) -> None:
    folder = save(Policy(make_llama(), make_tokenizer(), name="start"), tmp_path / "model")
    about = json.loads((folder / "policy.json").read_text())
    (folder / "policy.json").write_text(json.dumps({**about, "decode": decode, "roles": roles}))
    with pytest.raises(UserError, match=sentence):
        load(folder, say=lambda _: None)


def test_the_weights_alone_are_asked_without_the_chain() -> None:
    from tempering.forgetting.targets import Secret
    from tempering.methods.probes.asked import Asked
    from tempering.methods.probes.weights_alone import WeightsAlone

    start = Policy(make_llama(), make_tokenizer(), name="start")
    behind = beside(start, Policy(first_layers(start.model, 1), start.tokenizer), ULD(subtract=5.0, threshold=0.0))
    items = (Secret(id="secret:0", prompt=(("user", "who is it"),), answer="nobody"),)

    def said(probe: Asked | WeightsAlone, policy: Policy) -> str:
        return probe(policy).items[0].output

    plain = said(Asked(items=items), start)
    assert said(WeightsAlone(items=items), behind) == plain
    assert said(Asked(items=items), behind) != plain, "the chain does nothing"
    assert behind.decode and behind.roles, "the policy keeps its chain"


def test_general_capability_is_restored_weight_by_weight(tmp_path: Path) -> None:
    save(Policy(make_llama(seed=3), make_tokenizer(), name="free"), tmp_path / "free")
    before, tuned, after = moved("lora")
    free = dict(make_llama(seed=3).named_parameters())
    method = ToolDelete(tool_free=str(tmp_path / "free"), alpha=0.25, vector_seed=5)
    torch.manual_seed(5)
    drawn = dict(type(tuned.model.get_base_model())(make_llama().config).named_parameters())  # type: ignore[operator, union-attr]
    found = restored(tuned, method, "unused")
    for name, p in found.model.named_parameters():
        assert torch.allclose(p, after[name] + 0.25 * (free[name] - drawn[name]), atol=1e-6), name
    kept = restored(tuned, ToolDelete(tool_free=str(tmp_path / "free"), alpha=0.0), "unused")
    assert all(torch.allclose(p, after[name], atol=1e-6) for name, p in kept.model.named_parameters()) and before
    save(Policy(make_llama(hidden=16), make_tokenizer(), name="other"), tmp_path / "other")
    with pytest.raises(UserError, match="it has no weight"):
        restored(tuned, ToolDelete(tool_free=str(tmp_path / "other"), alpha=1.0), "unused")
