"""Several processes train as one does: the same losses and weights to 1e-5 (float32), whatever the cut of a step over them."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tempering import checkpoint
from tempering.config import Optimizer, Training
from tempering.data.streams import Join, Shuffled, passes
from tempering.distributed.shares import deal, share
from tempering.distributed.world import World, joined
from tempering.errors import Interrupted
from tempering.fit import Evaluation, Stopper, fit
from tempering.layout import collate
from tempering.methods.objectives.dpo import DPO
from tempering.methods.objectives.nll import NLL
from tempering.methods.scopes.full import Full
from tempering.methods.scopes.lora import LoRA
from tempering.models.half import halve
from tempering.models.quantise import is_quantised
from tempering.reference import columns
from tempering.signals import engine_for
from tempering.types import Policy, Role, Segment
from tests.contract.test_coupling import Running, Sorted
from tests.contract.test_stretch import KTO
from tests.nursery import Nursery, nursery
from tests.toy import VOCAB, toy_llama, toy_rows

END = "end.safetensors"
STEPS = 6


def labelled() -> list[Any]:
    rng = np.random.default_rng(0)
    rows = []
    for row in toy_rows(12, ("train", "kl")):
        (segment,) = row["train"]
        rows.append({**row, "train": (Segment(segment.ids, segment.weight, {"label": float(rng.integers(2))}),)})
    return rows


def with_holes() -> list[Any]:
    """Pairs of parts; of three rows one has the second part, one has it without a scored token, one has nothing there."""
    rows = []
    for i, row in enumerate(toy_rows(15, ("forget", "retain"))):
        (segment,) = row["retain"]
        retain = (segment if i % 3 == 0 else Segment(segment.ids, 0 * segment.weight),)
        rows.append({"forget": row["forget"], "retain": retain} if i % 3 < 2 else {"forget": row["forget"]})
    return rows


CASES: Mapping[str, tuple[Any, Any]] = {
    # Five rows a step: never even on two or four processes. Micro-batches of 30 tokens: another number of them on each.
    "sft": (NLL(), lambda: Shuffled(toy_rows(17), 5, seed=5)),
    # Two rows a step: on four processes two have nothing at all.
    "few": (NLL(), lambda: Shuffled(toy_rows(17), 2, seed=5)),
    "dpo": (DPO(beta=0.5), lambda: Shuffled(toy_rows(17, ("chosen", "rejected")), 3, seed=5)),
    "coupled": (KTO(), lambda: Shuffled(labelled(), 5, seed=5)),
    "gathered": (Sorted() + Running(part="chosen"), lambda: Shuffled(toy_rows(17, ("chosen", "rejected")), 3, seed=5)),
    "holes": (NLL(part="forget") + 0.5 * NLL(part="retain"), lambda: Shuffled(with_holes(), 5, seed=5)),
    "streams": (
        NLL(part="a") + NLL(part="b"),
        lambda: Join(a=(Shuffled(toy_rows(9), 4, seed=1), "train"), b=(Shuffled(toy_rows(9, seed=2), 1, seed=2), "train")),
    ),
}


def start(family: str, scope: str) -> Role:
    """A toy model with its scope; "half": adapters on a base whose linear layers are in bfloat16."""
    model = toy(family)
    if scope == "half":
        halve(model, torch.float32)
    return Role(model, Full() if scope == "full" else LoRA(r=4, quantise="bf16" if scope == "half" else "none"))


def toy(family: str) -> Any:
    """Three layers of a family: Qwen3 has norms inside of its heads, Phi-3 one matrix for queries, keys and values."""
    if family == "llama":
        return toy_llama(layers=3)
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if family == "qwen3":
        sizes |= {"head_dim": 8, "tie_word_embeddings": True}
    config = AutoConfig.for_model(family, vocab_size=VOCAB, hidden_size=32, intermediate_size=64, initializer_range=0.1, **sizes)
    return AutoModelForCausalLM.from_config(config).eval()


def train(
    path: str,
    case: str,
    scope: str,
    stop_at: int | None = None,
    again: Mapping[str, int] | None = None,
    tensor: int = 1,
    family: str = "llama",
    optimizer: str = "adamw",
) -> int:
    """What each process does."""
    folder = Path(path)
    objective, stream = CASES[case]
    stopper = Stopper()

    def watch(metrics: Mapping[str, Any]) -> None:
        if metrics["step"] == stop_at and world.rank == world.size - 1:
            stopper("a test")

    with joined(tensor) as world:
        try:
            fitted = fit(
                {"policy": start(family, scope)}, objective, stream(), steps=STEPS,
                optimizer=Optimizer(name=optimizer, lr=3e-3 if optimizer == "adamw" else 0.3, weight_decay=0.1),
                training=Training(micro_tokens=30, precision="fp32", save_every=4, clip=0.5, **(again or {})),
                evaluation=Evaluation(lambda: passes(stream().rows, 4), every=2) if case in ("sft", "dpo") else None,
                folder=folder, resume=True, seed=11, say=lambda text: None, on_metrics=watch, stopper=stopper,
            )  # fmt: skip
        except Interrupted:
            return Interrupted.exit_code
        if world.first:
            assert is_quantised(fitted.roles["policy"].model) == (scope == "half")
            save_file({n: p.detach() for n, p in fitted.roles["policy"].handle.params.items()}, folder / END)
            logits = fitted.roles["policy"].model(input_ids=torch.arange(9).view(1, 9)).logits
            save_file({"logits": logits.detach()}, folder / "logits.safetensors")
    return 0


TRAIN = f"{__name__}:train"


@pytest.fixture(scope="module")
def children() -> Iterator[Nursery]:
    with nursery() as made:
        yield made


def metrics(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "tokens_per_s"} for line in lines]


def assert_same(a: Path, b: Path) -> None:
    for ours, theirs in zip(metrics(a), metrics(b), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5, rel=1e-5)
    for name in (END, "logits.safetensors"):
        ours, theirs = load_file(a / name), load_file(b / name)
        assert ours.keys() == theirs.keys()
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], atol=1e-5, rtol=1e-5)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("case", "scope", "processes"),
    [
        ("sft", "full", 2),
        ("dpo", "full", 2),
        ("coupled", "lora", 2),
        ("dpo", "half", 2),
        ("gathered", "full", 2),
        ("holes", "full", 2),
        pytest.param("dpo", "lora", 2, marks=SLOW),
        pytest.param("streams", "lora", 2, marks=SLOW),
        *(pytest.param(case, scope, 4, marks=SLOW) for case in CASES for scope in ("full", "lora") if (case, scope) != ("coupled", "full")),
    ],
)
def test_several_processes_train_as_one(children: Nursery, tmp_path: Path, case: str, scope: str, processes: int) -> None:
    children.run(TRAIN, str(tmp_path / "one"), case, scope)
    children.run(TRAIN, str(tmp_path / "many"), case, scope, processes=processes)
    assert len(metrics(tmp_path / "one")) == STEPS
    start = toy_llama(layers=3).state_dict()
    moved = [name for name, t in load_file(tmp_path / "one" / END).items() if name not in start or float((t - start[name]).abs().max()) > 1e-3]
    assert moved
    assert_same(tmp_path / "one", tmp_path / "many")


@pytest.mark.parametrize(
    ("before", "after", "scope"),
    [(2, 1, "full"), pytest.param(1, 2, "full", marks=SLOW), pytest.param(4, 2, "full", marks=SLOW), pytest.param(2, 4, "lora", marks=SLOW)],
)
def test_another_number_of_processes_goes_on(children: Nursery, tmp_path: Path, before: int, after: int, scope: str) -> None:
    """The stop is asked for on the last process alone, and all stop at the same step."""
    children.run(TRAIN, str(tmp_path / "one"), "sft", scope)
    children.start(TRAIN, str(tmp_path / "moved"), "sft", scope, 3, processes=before)
    assert children.codes() == [Interrupted.exit_code] * before
    assert checkpoint.steps(tmp_path / "moved" / "checkpoints") == [3]
    children.run(TRAIN, str(tmp_path / "moved"), "sft", scope, processes=after)
    assert_same(tmp_path / "one", tmp_path / "moved")


@pytest.mark.slow
def test_the_same_number_of_processes_goes_on_to_the_same_bits(children: Nursery, tmp_path: Path) -> None:
    children.run(TRAIN, str(tmp_path / "whole"), "dpo", "lora", processes=2)
    children.start(TRAIN, str(tmp_path / "stopped"), "dpo", "lora", 3, processes=2)
    assert children.codes() == [Interrupted.exit_code] * 2
    children.run(TRAIN, str(tmp_path / "stopped"), "dpo", "lora", processes=2)
    expected, got = (load_file(tmp_path / name / END) for name in ("whole", "stopped"))
    assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.parametrize("again", [{"checkpointing": True}, {"recompute_over": 12}], ids=list)
def test_recomputed_activations_change_nothing(children: Nursery, tmp_path: Path, again: dict[str, int]) -> None:
    children.run(TRAIN, str(tmp_path / "one"), "sft", "full")
    children.run(TRAIN, str(tmp_path / "many"), "sft", "full", None, again, processes=2)
    assert_same(tmp_path / "one", tmp_path / "many")


def start_from_cached(path: str) -> int:
    """What each process does: DPO in bfloat16 against log-probs that the same weights gave before they were cut."""
    training = Training(micro_tokens=60, precision="bf16")
    with joined() as world:
        model = toy_llama(layers=3)
        for name, p in model.named_parameters():
            if "norm" in name:
                # Numbers that bfloat16 does not have.
                torch.nn.init.uniform_(p.data, 0.5, 1.5)
        rows = list(columns(Policy(model, None), toy_rows(9, ("chosen", "rejected")), engine_for(training)))
        fitted = fit({"policy": Role(model, Full())}, DPO(beta=0.5), Shuffled(rows, 9, seed=1), steps=1, training=training, say=lambda text: None)
        if world.first:
            Path(path).write_text(json.dumps(fitted.metrics))
    return 0


def test_in_bfloat16_norms_compute_as_on_one_process(children: Nursery, tmp_path: Path) -> None:
    """The policy is still the reference, so the first loss is that of a margin of 0: only if cut weights compute to the same bits."""
    children.run(f"{__name__}:start_from_cached", str(tmp_path / "metrics.json"), processes=2)
    assert json.loads((tmp_path / "metrics.json").read_text())["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_a_process_that_dies_ends_the_others_and_the_run_can_be_resumed(children: Nursery, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    _, second = children.start(TRAIN, str(folder), "few", "lora", processes=2)
    while not (folder / "metrics.jsonl").exists() or len(metrics(folder)) < 2:
        time.sleep(0.01)
    os.kill(second, signal.SIGKILL)
    # That this returns is the point: the first would wait for the second for days.
    assert children.codes() == [1, -signal.SIGKILL]
    children.run(TRAIN, str(folder), "few", "lora", processes=2)
    children.run(TRAIN, str(tmp_path / "one"), "few", "lora")
    assert_same(tmp_path / "one", folder)


# ------------------------------------------------------------------------------------------------------------------------- who takes which part


def test_every_group_is_dealt_once_and_by_tokens() -> None:
    parts = collate(toy_rows(40, ("chosen", "rejected")))
    size = torch.zeros(40, dtype=torch.long)
    for batch in parts.values():
        size.index_add_(0, batch.group_S[batch.segment_T], torch.ones(batch.num_tokens, dtype=torch.long))
    dealt = deal(parts, 4)
    assert sorted(group for hand in dealt for group in hand) == list(range(40))
    held = [sum(int(size[group]) for group in hand) for hand in dealt]
    # Largest first to the emptiest hand: no two hands differ by more than one group, and here by no more than the smallest ones.
    assert max(held) - min(held) <= int(size.max())


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_all_have_as_many_micro_batches_and_together_the_whole_step(rows: int) -> None:
    parts = collate(toy_rows(rows, ("chosen", "rejected")))
    shares = [share(parts, 40, World(rank, 4)) for rank in range(4)]
    assert len({len(micros) for micros in shares}) == 1
    for name, batch in parts.items():
        pieces = [micro[name] for micros in shares for micro in micros]
        assert sum(piece.num_tokens for piece in pieces) == batch.num_tokens
        assert sorted(group for piece in pieces for group in piece.group_S.tolist()) == sorted(batch.group_S.tolist())
        assert all(set(micro) == set(parts) for micros in shares for micro in micros)
