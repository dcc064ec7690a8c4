"""Matrices in pieces on processes side by side train as one process does, alone and beside data in pieces, to 1e-5 (float32)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM

from tempering import checkpoint
from tempering.config import Optimizer, Training
from tempering.distributed.world import World, joined
from tempering.errors import Interrupted, UserError
from tempering.fit import fit
from tempering.methods.objectives.nll import NLL
from tempering.methods.scopes.full import Full
from tempering.methods.scopes.lora import LoRA
from tempering.types import Role
from tests.contract.test_processes import CASES, SLOW, TRAIN, assert_same, metrics, toy
from tests.nursery import Nursery, nursery


@pytest.fixture(scope="module")
def children() -> Iterator[Nursery]:
    with nursery() as made:
        yield made


@pytest.mark.parametrize(
    ("case", "scope", "processes", "tensor", "family", "optimizer"),
    [
        ("sft", "full", 2, 2, "llama", "adamw"),
        pytest.param("dpo", "full", 2, 2, "qwen3", "adamw", marks=SLOW),
        pytest.param("dpo", "lora", 2, 2, "llama", "adamw", marks=SLOW),
        pytest.param("sft", "full", 4, 2, "llama", "adamw", marks=SLOW),
        pytest.param("dpo", "full", 4, 2, "qwen3", "adamw", marks=SLOW),
        pytest.param("dpo", "lora", 4, 2, "qwen3", "adamw", marks=SLOW),
        pytest.param("coupled", "lora", 4, 2, "llama", "adamw", marks=SLOW),
        pytest.param("streams", "full", 4, 2, "llama", "adamw", marks=SLOW),
        # AdamW divides a gradient that is nearly nothing by its own size, so that rounding shows; plain steps are as large as the gradients.
        pytest.param("holes", "full", 4, 2, "llama", "sgd", marks=SLOW),
        pytest.param("few", "full", 4, 2, "llama", "sgd", marks=SLOW),
        pytest.param("sft", "full", 2, 2, "phi3", "adamw", marks=SLOW),
        pytest.param("sft", "lora", 4, 2, "phi3", "adamw", marks=SLOW),
    ],
)
def test_matrices_in_pieces_train_as_whole_ones(
    children: Nursery, tmp_path: Path, case: str, scope: str, processes: int, tensor: int, family: str, optimizer: str
) -> None:
    """Ragged micro-batches, and a gradient longer than the limit, so that clipping acts."""
    children.run(TRAIN, str(tmp_path / "one"), case, scope, None, None, 1, family, optimizer)
    children.run(TRAIN, str(tmp_path / "many"), case, scope, None, None, tensor, family, optimizer, processes=processes)
    assert max(line["grad_norm"] for line in metrics(tmp_path / "one")) > 0.5
    assert_same(tmp_path / "one", tmp_path / "many")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "scope"),
    [((2, 2), (1, 1), "full"), ((1, 1), (2, 2), "full"), ((4, 2), (2, 1), "lora"), ((2, 1), (4, 2), "full")],
)
def test_another_cut_goes_on(children: Nursery, tmp_path: Path, before: tuple[int, int], after: tuple[int, int], scope: str) -> None:
    children.run(TRAIN, str(tmp_path / "one"), "sft", scope)
    children.start(TRAIN, str(tmp_path / "moved"), "sft", scope, 3, None, before[1], processes=before[0])
    assert children.codes() == [Interrupted.exit_code] * before[0]
    assert checkpoint.steps(tmp_path / "moved" / "checkpoints") == [3]
    children.run(TRAIN, str(tmp_path / "moved"), "sft", scope, None, None, after[1], processes=after[0])
    assert_same(tmp_path / "one", tmp_path / "moved")


@pytest.mark.slow
def test_recomputed_activations_of_matrices_in_pieces_change_nothing(children: Nursery, tmp_path: Path) -> None:
    children.run(TRAIN, str(tmp_path / "one"), "sft", "full")
    children.run(TRAIN, str(tmp_path / "many"), "sft", "full", None, {"checkpointing": True}, 2, processes=2)
    assert_same(tmp_path / "one", tmp_path / "many")


# --------------------------------------------------------------------------------------------------------------------------- what is refused, and how


def without(layer: str, model: Any) -> Any:
    """The model with a plan that forgets a layer."""
    model._tp_plan = {name: kind for name, kind in model._tp_plan.items() if layer not in name}
    return model


def refuse(path: str) -> int:
    """What each process meets for models that cannot be cut in two; the first notes the sentences."""
    sizes = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "pad_token_id": 0}
    odd = {
        "no plan": lambda: AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", vocab_size=61, n_embd=32, n_layer=1, n_head=2)),
        "heads": lambda: AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes, num_attention_heads=4, num_key_value_heads=1)),
        "width": lambda: AutoModelForCausalLM.from_config(
            AutoConfig.for_model("llama", **{**sizes, "intermediate_size": 65}, num_attention_heads=4, num_key_value_heads=2)
        ),
        "experts": lambda: AutoModelForCausalLM.from_config(
            AutoConfig.for_model(
                "qwen3_moe",
                **sizes,
                num_attention_heads=4,
                num_key_value_heads=2,
                num_experts=4,
                num_experts_per_tok=2,
                moe_intermediate_size=16,
                head_dim=8,
            )
        ),
        "dora": lambda: toy("llama"),
        "gradient": lambda: without("q_norm", toy("qwen3")),
        "output": lambda: without("o_proj", toy("llama")),
    }
    told = {}
    with joined(2) as world:
        for name, make in odd.items():
            scope: Any = LoRA(r=2, options={"use_dora": True}) if name == "dora" else Full()
            try:
                fit({"policy": Role(make(), scope)}, NLL(), CASES["sft"][1](), steps=1, training=Training(precision="fp32"), say=lambda text: None)
            except UserError as error:
                told[name] = str(error)
        if world.first:
            Path(path).write_text(json.dumps(told))
    return 0


def test_what_cannot_be_cut_is_refused_in_a_sentence(children: Nursery, tmp_path: Path) -> None:
    children.run(f"{__name__}:refuse", str(tmp_path / "told.json"), processes=2)
    told = json.loads((tmp_path / "told.json").read_text())
    assert "GPT2LMHeadModel brings no plan" in told["no plan"]
    assert "LlamaForCausalLM has 1 key value heads, which 2 does not divide" in told["heads"]
    assert "the width of model.layers.0.mlp.gate_proj is 65, which 2 does not divide" in told["width"]
    assert "Qwen3MoeForCausalLM wants model.layers.0.mlp" in told["experts"]
    assert "adapter that is not plain LoRA" in told["dora"]
    assert "Qwen3ForCausalLM does not give the same when it is cut by its own plan" in told["gradient"]
    assert "LlamaForCausalLM does not give the same when it is cut by its own plan" in told["output"]


def test_numbers_that_several_processes_share_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said = [[1.0, 10.0], [1.0, 10.0], [2.0, 20.0], [2.0, 20.0]]
    monkeypatch.setattr(dist, "all_gather_object", lambda into, value, group: into.__setitem__(slice(None), said))
    world = World(rank=3, size=4, tensor=2)
    assert (world.hand, world.hands) == (1, 2)
    assert world.sums([2.0, 20.0]) == [3.0, 30.0]
    said[:] = [[torch.tensor([float(i // 2)])] for i in range(4)]  # type: ignore[list-item]
    assert world.add([torch.tensor([1.0])])[0].tolist() == [1.0]


# ------------------------------------------------------------------------------------------------------------------------------------- other families

TYPES: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 5},
    "qwen2": {"tie_word_embeddings": True},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0},
    "gemma3_text": {"head_dim": 8, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    "smollm3": {},
    "olmo2": {},
    "granite": {"logits_scaling": 2.0},
    "cohere": {},
    "glm": {"head_dim": 8},
    "starcoder2": {},
}


def each(path: str, tensor: int) -> int:
    """Two plain gradient steps of every family; losses and weights, or the sentence of the refusal."""
    sizes = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"initializer_range": 0.1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    found: dict[str, torch.Tensor] = {}
    told: dict[str, str] = {}
    with joined(tensor) as world:
        for name, more in TYPES.items():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **(sizes | more)))
            losses: list[float] = []
            scope: Any = Full()
            try:
                fitted = fit(
                    {"policy": Role(model, scope)}, NLL(), CASES["sft"][1](), steps=2, optimizer=Optimizer(name="sgd", lr=0.1),
                    training=Training(precision="fp32", micro_tokens=40), say=lambda text: None,
                    on_metrics=lambda m, into=losses: into.append(m["loss"]),
                )  # fmt: skip
            except UserError as error:
                told[name] = str(error)
                continue
            if world.first:
                found |= {f"{name}/{n}": p.detach().clone() for n, p in fitted.roles["policy"].model.named_parameters()}
                found[f"{name}/losses"] = torch.tensor(losses)
        if world.first:
            save_file(found, f"{path}-{tensor}.safetensors")
            Path(f"{path}-{tensor}.json").write_text(json.dumps(told))
    return 0


@pytest.mark.slow
def test_other_families_with_a_plan(children: Nursery, tmp_path: Path) -> None:
    children.run(f"{__name__}:each", str(tmp_path / "end"), 1)
    children.run(f"{__name__}:each", str(tmp_path / "end"), 2, processes=2)
    assert json.loads((tmp_path / "end-2.json").read_text()) == {}
    one, two = (load_file(tmp_path / f"end-{tensor}.safetensors") for tensor in (1, 2))
    assert {name.split("/")[0] for name in one} == set(TYPES) and one.keys() == two.keys()
    off = {name: float((one[name] - two[name]).abs().max()) for name in one if not torch.allclose(one[name], two[name], rtol=1e-5, atol=1e-5)}
    assert off == {}
