"""Weights that stay in their files until a run of several processes has cut the model: the same weights and steps, in the memory of the pieces."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tempering.config import Optimizer, Training
from tempering.data.streams import Shuffled
from tempering.distributed.shard import Sharded
from tempering.distributed.world import joined
from tempering.fit import fit
from tempering.methods.objectives.dpo import DPO
from tempering.methods.scopes.full import Full
from tempering.methods.scopes.lora import LoRA
from tempering.models.later import build, release, stand_in, waits
from tempering.signals import Live
from tempering.types import Role
from tests.contract.test_processes import toy
from tests.nursery import Nursery, nursery
from tests.toy import toy_rows


@pytest.fixture(scope="module")
def children() -> Iterator[Nursery]:
    with nursery() as made:
        yield made


def saved(folder: Path, family: str = "llama") -> Any:
    model = toy(family)
    model.save_pretrained(folder, max_shard_size="20kB")
    return model


def train(path: str, scope: str, tensor: int, later: bool, mixed: bool) -> int:
    """What each process does; where `mixed`, the first has loaded its weights."""
    folder = Path(path)
    with joined(tensor) as world:
        whole = not later or (mixed and world.first)
        made: Any = toy("qwen3").__class__.from_pretrained(folder / "model") if whole else build(folder / "model", torch.float32)
        if not whole:
            assert all(p.untyped_storage().nbytes() == 4 for p in made.parameters())
        fitted = fit(
            {"policy": Role(made, Full() if scope == "full" else LoRA(r=4))}, DPO(beta=0.5), Shuffled(toy_rows(9, ("chosen", "rejected")), 3, seed=5),
            steps=3, optimizer=Optimizer(lr=3e-3), training=Training(micro_tokens=40, precision="fp32", clip=0.5), seed=11, say=lambda text: None,
        )  # fmt: skip
        if world.first:
            live = fitted.roles["policy"]
            state = {n: p.detach().clone() for n, p in live.model.named_parameters()}
            save_file({**state, "loss": torch.tensor(fitted.metrics["loss"])}, folder / f"{scope}-{tensor}-{later}-{mixed}.safetensors")
            assert live.model(input_ids=torch.arange(9)[None]).logits.isfinite().all()
    return 0


@pytest.mark.parametrize(
    ("scope", "processes", "tensor", "mixed"),
    [
        ("full", 2, 1, False),
        ("lora", 2, 2, False),
        pytest.param("full", 2, 2, True, marks=pytest.mark.slow),
        pytest.param("lora", 2, 1, True, marks=pytest.mark.slow),
        pytest.param("full", 4, 2, False, marks=pytest.mark.slow),
    ],
)
def test_training_from_files_is_training_from_loaded_weights(
    children: Nursery, tmp_path: Path, scope: str, processes: int, tensor: int, mixed: bool
) -> None:
    """Bit by bit: the same pieces hold the same numbers. Qwen3's embedding is its output layer too."""
    saved(tmp_path / "model", "qwen3")
    children.run(f"{__name__}:train", str(tmp_path), scope, tensor, False, False, processes=processes)
    children.run(f"{__name__}:train", str(tmp_path), scope, tensor, True, mixed, processes=processes)
    expected, got = (load_file(tmp_path / f"{scope}-{tensor}-{name}.safetensors") for name in ("False-False", f"True-{mixed}"))
    assert expected.keys() == got.keys()
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []


def test_a_model_without_its_weights_is_the_same_in_everything_else(tmp_path: Path) -> None:
    model = saved(tmp_path)
    made = build(tmp_path, torch.float32)
    assert made is not None and waits(made)
    loaded = type(model).from_pretrained(tmp_path)
    assert {n: p.shape for n, p in made.named_parameters()} == {n: p.shape for n, p in loaded.named_parameters()}
    theirs = dict(loaded.named_buffers())
    assert theirs and all(torch.equal(b, theirs[n]) for n, b in made.named_buffers())
    assert made.config.to_dict() == loaded.config.to_dict()
    assert made.generation_config.to_dict() == loaded.generation_config.to_dict()


def test_nothing_is_computed_with_weights_that_are_not_there(tmp_path: Path) -> None:
    saved(tmp_path)
    made = build(tmp_path, torch.float32)
    with pytest.raises(RuntimeError, match="still in its files"):
        made(input_ids=torch.arange(3)[None])  # type: ignore[misc]
    with pytest.raises(ValueError, match="for several processes"):
        fit({"policy": Role(made, LoRA(r=2))}, DPO(), Shuffled(toy_rows(3, ("chosen", "rejected")), 3, seed=5), steps=1)  # type: ignore[arg-type]


def test_names_that_are_not_the_models_own_load_as_ever(tmp_path: Path) -> None:
    saved(tmp_path)
    (one, *_) = sorted(tmp_path.glob("*.safetensors"))
    held = load_file(one)
    save_file({f"other.{name}": t for name, t in held.items()}, one)
    assert build(tmp_path, torch.float32) is None


def test_a_stand_in_has_a_layer_of_every_sort(tmp_path: Path) -> None:
    saved(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    made = build(tmp_path, torch.float32)
    assert made is not None
    small: Any = stand_in(made)
    assert small.config.num_hidden_layers == 1 < config["num_hidden_layers"]
    assert not any(p.is_meta for p in small.parameters())
    made.config.layer_types = ["full_attention", "sliding_attention", "full_attention"]
    assert stand_in(made).config.num_hidden_layers == 2  # type: ignore[union-attr]
    release(made, torch.device("cpu"))
    assert all(p.is_meta for p in made.parameters()) and not any(b.is_meta for b in made.buffers())


# ------------------------------------------------------------------------------------------------------------------------------------ how much memory


def hold(path: str, later: bool) -> int:
    """Each process cuts the model over all and notes by how many bytes its own memory rose at most, and what its pieces take."""
    folder, peak, done = Path(path), [0], threading.Event()

    def own() -> int:
        # Without what is mapped from files, which the system may drop at any time and all processes share.
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    def look() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], own())
            done.wait(0.001)

    with joined() as world:
        before = own()
        watching = threading.Thread(target=look)
        watching.start()
        made = build(folder / "model", torch.float32) if later else LlamaForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
        live = Live.attach(Role(made, Full()))  # type: ignore[arg-type]
        if later:
            with live.replacing():
                release(live.model, torch.device("cpu"))
        Sharded({"policy": live}, [], world, torch.device("cpu"), torch.float32)
        done.set()
        watching.join()
        pieces = sum(p.to_local().untyped_storage().nbytes() for p in live.model.parameters())  # type: ignore[attr-defined]
        (folder / f"{later}-{world.rank}.json").write_text(json.dumps({"rose": peak[0] - before, "pieces": pieces}))
    return 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of memory")
def test_a_process_takes_little_more_than_its_pieces(children: Nursery, tmp_path: Path) -> None:
    config = LlamaConfig(
        **json.loads(os.environ.get("TEMPERING_TEST_SIZES", '{"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 16}'))
    )
    whole = LlamaForCausalLM(config)
    size = sum(4 * p.numel() for p in whole.parameters())
    # In bfloat16, as models are published: a float32 file would only be mapped.
    whole.bfloat16().save_pretrained(tmp_path / "model")
    found = {}
    for later in (False, True):
        children.run(f"{__name__}:hold", str(tmp_path), later, processes=2)
        found[later] = [json.loads((tmp_path / f"{later}-{rank}.json").read_text()) for rank in range(2)]
    print(f"{size // 4:,} parameters, {size / 2**20:.0f} MiB: {found}")
    assert all(about["rose"] > 0.9 * size for about in found[False])
    assert all(about["rose"] < 1.3 * about["pieces"] < 0.7 * size for about in found[True])
