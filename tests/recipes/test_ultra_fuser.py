"""Specialists that speak together: one alone where the others bid nothing, the same where they are the same, and a gate that moves nobody's words."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tempering as tp
from tempering import models
from tempering.data.streams import Balanced
from tempering.errors import UserError
from tempering.measure import logps_of
from tempering.merging.specialists import BidsAlone, bidding, together
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.ultra_fuser import UltraFuser
from tempering.proof.small import sft_rows, tiny, train
from tempering.types import Policy, Role, Run, Segment
from tempering.worlds.instructions import Instructions

PAIRS = [([5, 9, 40], [7, 30, 2]), ([6, 6], [11, 12])]


def moved(seed: int) -> Policy:
    """builtin:tiny, moved a little."""
    found = tiny()
    with torch.no_grad():
        for p in found.model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)))
    return found


def bid(policy: Policy, role: str, size: float) -> None:
    """Have a specialist bid so much for every token: by a bias, since what a row makes of a state depends on the state."""
    model: Any = policy.model if role == "policy" else policy.roles[role]
    layer = model.get_output_embeddings()
    layer.weight = torch.nn.Parameter(layer.weight.detach().clone())
    made = torch.nn.Linear(layer.in_features, layer.out_features, bias=True)
    made.weight, made.bias = layer.weight, torch.nn.Parameter(torch.zeros(layer.out_features))
    made.bias.data[-1] = size
    model.set_output_embeddings(made)


def test_one_alone_is_itself_to_the_bit_and_twins_are_one() -> None:
    a, b = tiny(), moved(0)
    fused = together([a, b])
    bid(fused, "specialist2", 1e4)
    for one, other in zip(logps_of(fused, PAIRS), logps_of(b, PAIRS), strict=True):
        assert torch.equal(one, other)
    twins = together([b, b, b])
    bid(twins, "policy", 1.5)
    for one, other in zip(logps_of(twins, PAIRS), logps_of(b, PAIRS), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_bids_of_0_are_the_average_of_logits() -> None:
    a, b = tiny(), moved(0)
    with torch.no_grad():
        ids = torch.tensor([[*PAIRS[0][0], *PAIRS[0][1]]])
        logits = (a.model(input_ids=ids).logits + b.model(input_ids=ids).logits) / 2
    expected = logits.log_softmax(-1)[0, 2:5].gather(1, torch.tensor(PAIRS[0][1])[:, None])[:, 0]
    torch.testing.assert_close(logps_of(together([a, b]), PAIRS[:1])[0], expected, rtol=1e-5, atol=1e-5)


def test_the_gate_moves_its_rows_alone_and_lowers_the_loss() -> None:
    a, b = tiny(), moved(0)
    fused = together([a, b])
    rows = sft_rows(a, Instructions().records("train", 32))
    was = {role: copy.deepcopy(model).state_dict() for role, model in {"policy": fused.model, **fused.roles}.items()}
    roles = {"specialist2": Role(fused.roles["specialist2"], BidsAlone())}
    objective = UltraFuser(others=("specialist2",))
    losses: list[float] = []
    tuned = train(fused, objective, rows, steps=6, seed=0, lr=1e-1, scope=BidsAlone(), roles=roles)
    for role, model in {"policy": tuned.model, **fused.roles}.items():
        for name, p in model.state_dict().items():
            if p.shape[0] == a.model.config.vocab_size + 1:  # type: ignore[union-attr]
                assert torch.equal(p[:-1], was[role][name][:-1]) and not torch.equal(p[-1], was[role][name][-1])
            else:
                assert torch.equal(p, was[role][name])
    for one in (fused, replace(tuned, decode=fused.decode, roles=fused.roles)):
        pairs = [(s.ids[: int(s.weight.argmax())].tolist(), s.ids[int(s.weight.argmax()) :].tolist()) for row in rows for s in row["train"]]
        losses.append(-float(torch.cat(logps_of(one, pairs)).mean()))
    # `train` moves a copy of the policy, and the roles themselves: what is compared is the new pair with the old policy beside the new role.
    assert losses[1] < losses[0]


def test_after_the_gate_the_whole_output_layer_trains() -> None:
    a = tiny()
    model, rows = bidding(a.model), sft_rows(a, Instructions().records("train", 16))
    begin = Policy(model, a.tokenizer)
    gated = train(begin, UltraFuser(others=()), rows, steps=1, seed=0, lr=1e-2, scope=BidsAlone())
    tuned = train(gated, NLL(), rows, steps=1, seed=0, lr=1e-2)
    old, new = (one.model.get_output_embeddings().weight for one in (gated, tuned))  # type: ignore[operator, union-attr]
    assert not torch.equal(old[:-1], new[:-1])


def test_every_step_has_as_many_rows_of_each_kind() -> None:
    kinds = [[{"train": (Segment(np.array([kind, i], np.int32), np.array([0, 1], np.float32)),)} for i in range(n)] for kind, n in ((1, 3), (2, 7))]
    stream, run = Balanced(kinds, 4, seed=0), Run({}, 0, 0)
    seen: list[tuple[int, int]] = []
    for _ in range(3):
        first = [tuple(pair) for pair in stream.next(run)["train"].ids_T.view(-1, 2).tolist()]
        assert [kind for kind, _ in first] == [1, 1, 2, 2]
        seen += [pair for pair in first if pair[0] == 1]
    assert {i for _, i in seen[:3]} == {i for _, i in seen[3:]} == {0, 1, 2}
    again = Balanced(kinds, 4, seed=0)
    again.load(stream.state())
    assert torch.equal(again.next(run)["train"].ids_T, stream.next(run)["train"].ids_T)
    with pytest.raises(ValueError, match="5 rows a step cannot be balanced over 2 kinds"):
        Balanced(kinds, 5)


SMALL: dict[str, Any] = {"model": "builtin:tiny", "steps": 2, "gating": 2, "batch_size": 4, "max_test": 4, "keep": "none", "precision": "fp32"}


def written(folder: Path, task: str) -> str:
    path = folder / f"{task}.jsonl"
    rows = [{"prompt": item["prompt"], "completion": item["answer"]} for item in Instructions(tasks=(task,)).items("train", 20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_run_leaves_a_policy_that_speaks_with_its_specialists(tmp_path: Path) -> None:
    models.save(moved(0), tmp_path / "other")
    domains = tuple(written(tmp_path, task) for task in ("first", "count"))
    report = tp.run("ultra_fuser", out=tmp_path / "run", again=True, others=(str(tmp_path / "other"),), domains=domains, lr=1e-3, **SMALL)
    assert [probe.name for probe in report.ledger.probes] == ["held_loss_1", "held_loss_2"]
    found = models.load(str(tmp_path / "run" / "model"), say=lambda _: None)
    assert sorted(found.roles) == ["specialist2"] and found.decode[0].roles == ("specialist2",)
    assert found.model.config.vocab_size == tiny().model.config.vocab_size + 1  # type: ignore[union-attr]
    gate = models.load(str(tmp_path / "run" / "gate" / "model"), say=lambda _: None)
    start = dict(tiny().model.named_parameters())
    assert all(torch.equal(p[: len(start[name])], start[name]) for name, p in gate.model.named_parameters())
    assert any(not torch.equal(p[: len(start[name])], start[name]) for name, p in found.model.named_parameters())
    # Nothing that is sampled is the place of the bids.
    from tempering.sample import sample

    ids = found.tokenizer("Count the words: river moon")["input_ids"]
    (episodes,) = sample(found, [ids], n=4, temperature=5.0, max_new_tokens=16, seed=0)
    assert all(token < len(found.tokenizer) for episode in episodes for token in episode.ids)


def test_what_cannot_be_fused_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name the other specialists with --others"):
        tp.run("ultra_fuser", out=tmp_path / "run", again=True, **SMALL)
    domains = tuple(written(tmp_path, task) for task in ("first", "count", "last"))
    with pytest.raises(UserError, match="--batch-size 4: a step has as many rows of each of the 3 domains"):
        tp.run("ultra_fuser", out=tmp_path / "run", again=True, others=("builtin:tiny",), domains=domains, **SMALL)
    with pytest.raises(UserError, match="its vocabulary is another than that of --model"):
        tp.run("ultra_fuser", out=tmp_path / "run", again=True, others=("builtin:smollm2-135m",), domains=domains[:2], **SMALL)


def test_a_plan_counts_every_specialist() -> None:
    plan = tp.plan("ultra_fuser", model="builtin:tiny", others=("builtin:tiny",), domains=("builtin:demo",), precision="fp32", limit=32)
    size = 1_262_976 + 128
    assert plan.parameters == plan.trainable == 2 * size
