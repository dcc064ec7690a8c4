"""A dense model as a mixture of experts: the same function where all are active, the same weights put together again, and routers that are taught."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tempering as tp
from tempering.errors import UserError
from tempering.methods.reshapes.factor_llm import FactorLLM
from tempering.recipes.factor_llm import with_priors
from tempering.reshaping.run import distance, reshape
from tempering.types import Policy, Segment
from tests.toy_families import family


def cut(model: Any, **how: Any) -> Any:
    return reshape(Policy(model, None), FactorLLM(**how), say=lambda _: None).model


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_with_all_experts_it_computes_what_it_did(name: str) -> None:
    model = family(name)
    made = cut(model, experts=3, active=3, spread=0.0)
    assert type(made).__name__ == "MixtralForCausalLM" and made.config.intermediate_size == 8
    assert distance(model, made) < 1e-5
    assert distance(model, cut(model, experts=2, active=2, spread=0.0)) < 1e-5
    # A router that says something divides the output otherwise.
    assert distance(model, cut(model, experts=3, active=3, spread=5.0)) > 1e-3
    assert distance(model, cut(model, experts=3, active=2)) > 1e-3


def test_the_slices_put_together_are_the_weights_to_the_bit() -> None:
    model = family("llama")
    made, old = cut(model, experts=4), model.model.layers[1].mlp
    new = made.model.layers[1].mlp.experts
    gate, up = new.gate_up_proj.chunk(2, 1)
    assert torch.equal(gate.flatten(0, 1), old.gate_proj.weight) and torch.equal(up.flatten(0, 1), old.up_proj.weight)
    assert torch.equal(torch.cat([*new.down_proj], 1) / 4, old.down_proj.weight)
    routers = 2 * 4 * 16
    assert made.num_parameters() == model.num_parameters() + routers


def test_the_nearest_experts_by_hand() -> None:
    model = family("llama").requires_grad_(False)
    ids = np.array([3, 5, 7, 11], np.int32)
    (row,) = with_priors(model, [{"train": (Segment(ids, np.array([0, 1, 1, 1], np.float32)),)}], 3, 2)
    found = row["train"][0].extras
    assert sorted(found) == ["prior.0", "prior.1"] and found["prior.0"].shape == (4, 2)
    seen: list[Any] = []
    mlp = model.model.layers[1].mlp
    hook = mlp.register_forward_pre_hook(lambda module, args: seen.append(args[0][0].detach()))
    model(input_ids=torch.tensor([ids.tolist()]))
    hook.remove()
    for t in range(4):
        neurons = torch.nn.functional.silu(mlp.gate_proj.weight @ seen[0][t]) * (mlp.up_proj.weight @ seen[0][t])
        said = [mlp.down_proj.weight[:, i : i + 8] @ neurons[i : i + 8] for i in (0, 8, 16)]
        far = [(one - 2 / 3 * sum(said)).square().sum().item() for one in said]
        assert found["prior.1"][t].tolist() == sorted(sorted(range(3), key=far.__getitem__)[:2])


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(UserError, match="factor_llm makes a Mixtral"):
        cut(family("qwen2"))
    for how in ({"experts": 5}, {"experts": 2, "active": 3}):
        with pytest.raises(UserError, match="the 24 neurons must divide by the experts"):
            cut(family("llama"), **how)


def test_a_run_leaves_a_mixture_that_transformers_opens(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    small = {"model": "builtin:tiny", "limit": 16, "steps": 2, "batch_size": 4, "max_test": 4, "keep": "none", "precision": "fp32"}
    report = tp.run("factor_llm", out=tmp_path / "run", again=True, **small)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert opened.config.model_type == "mixtral" and opened.config.num_local_experts == 4 and opened.config.num_experts_per_tok == 2
    assert report.ledger.probes


def test_a_plan_counts_the_mixture() -> None:
    plan = tp.plan("factor_llm", model="builtin:tiny", precision="fp32", limit=32)
    routers = 5 * 4 * 128
    assert plan.parameters == 1_262_976 + routers
