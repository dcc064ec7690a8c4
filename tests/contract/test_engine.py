"""The engine's exactness: layouts, micro-batches and masks change nothing; values equal those of a plain PyTorch computation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tempering import layout, reduce
from tempering.config import Optimizer, Schedule, Training
from tempering.fit import Means, count_terms, fit, total
from tempering.methods.objectives.dpo import DPO
from tempering.methods.objectives.nll import NLL
from tempering.methods.scopes.full import Full
from tempering.methods.scopes.lora import LoRA
from tempering.signals import Engine, Live, compute
from tempering.types import Context, Norm, Objective, Parts, Role, Segment
from tests.toy import VOCAB, toy_llama, toy_rows


def loss_and_grads(
    objective: Objective, parts: Parts, engine: Engine, micro_tokens: int | None = None, scope: Full | LoRA | None = None
) -> tuple[float, dict[str, torch.Tensor]]:
    model = toy_llama()
    torch.manual_seed(1)
    live = Live.attach(Role(model, scope or Full()))
    if isinstance(scope, LoRA):
        for name, p in live.handle.params.items():
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.1)
    live.handle.keep_reference()
    if not isinstance(scope, LoRA):
        # Away from the reference, so that DPO's margins are not zero.
        with torch.no_grad():
            for p in live.handle.params.values():
                p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
    micros = layout.split(parts, micro_tokens)
    loss = total({"policy": live}, objective, [lambda m=m: m for m in micros], count_terms(objective, [parts]), 0, engine, Means())
    return loss, {n: p.grad.clone() for n, p in live.handle.params.items() if p.grad is not None}


def assert_same(a: tuple[float, dict[str, torch.Tensor]], b: tuple[float, dict[str, torch.Tensor]], tolerance: float) -> None:
    assert abs(a[0] - b[0]) <= tolerance * max(1.0, abs(a[0]))
    assert a[1].keys() == b[1].keys()
    assert a[1]
    scale = max(float(g.abs().max()) for g in a[1].values())
    assert scale > 1e-4
    for name, grad in a[1].items():
        assert float((grad - b[1][name]).abs().max()) <= tolerance * scale, name


CASES: list[tuple[Objective, tuple[str, ...]]] = [
    (NLL(), ("train",)),
    (NLL(norm="segment_mean"), ("train",)),
    (NLL(norm="segments"), ("train",)),
    (NLL(norm="groups"), ("train",)),
    (NLL(norm=100.0), ("train",)),
    (DPO(), ("chosen", "rejected")),
    (DPO(beta=0.5, label_smoothing=0.1) + 0.3 * NLL("chosen"), ("chosen", "rejected")),
]


@pytest.mark.parametrize(("objective", "names"), CASES, ids=lambda x: str(x)[:60])
def test_packed_equals_padded(objective: Objective, names: tuple[str, ...]) -> None:
    parts = layout.collate(toy_rows(7, names))
    assert_same(loss_and_grads(objective, parts, Engine("padded")), loss_and_grads(objective, parts, Engine("packed")), 2e-6)


@pytest.mark.parametrize(("objective", "names"), CASES, ids=lambda x: str(x)[:60])
@pytest.mark.parametrize("scope", [Full(), LoRA(r=4, alpha=4)], ids=["full", "lora"])
def test_micro_batches_equal_one_batch(objective: Objective, names: tuple[str, ...], scope: Full | LoRA) -> None:
    parts = layout.collate(toy_rows(9, names))
    whole = loss_and_grads(objective, parts, Engine(), scope=scope)
    assert len(layout.split(parts, 40)) >= 3
    assert_same(whole, loss_and_grads(objective, parts, Engine(), 40, scope), 1e-6)
    assert_same(whole, loss_and_grads(objective, parts, Engine(), 1, scope), 1e-6)


@pytest.mark.parametrize("kind", ["padded", "packed"])
def test_logps_equal_a_plain_forward_pass_of_each_sequence(kind: layout.LayoutKind) -> None:
    rows = toy_rows(6)
    parts = layout.collate(rows)
    model = toy_llama()
    needs = {"train": frozenset({"logp", "entropy", "logsumexp", "logits"})}
    with torch.no_grad():
        signals = compute({"policy": Live(model)}, parts, needs, Engine(kind))["train"]
    at = 0
    for row in rows:
        segment = row["train"][0]
        ids = torch.as_tensor(segment.ids, dtype=torch.long)
        with torch.no_grad():
            logits = model(ids[None]).logits[0].double()
        for t in range(len(ids)):
            if segment.weight[t] == 0:
                assert signals["logp"][at + t] == 0 and signals["entropy"][at + t] == 0
                continue
            logp_V = F.log_softmax(logits[t - 1], -1)
            assert abs(float(signals["logp"][at + t] - logp_V[ids[t]])) < 1e-5
            assert abs(float(signals["entropy"][at + t] + (logp_V.exp() * logp_V).sum())) < 1e-5
            assert abs(float(signals["logsumexp"][at + t] - torch.logsumexp(logits[t - 1], -1))) < 1e-5
            assert float((signals["logits"][at + t] - logits[t - 1]).abs().max()) < 1e-4
        at += len(ids)


def test_nll_equals_cross_entropy_over_all_trained_tokens() -> None:
    rows = toy_rows(5)
    loss, _ = loss_and_grads(NLL(), layout.collate(rows), Engine(), scope=LoRA(r=2, targets="q_proj"))
    model = toy_llama()
    torch.manual_seed(1)
    handle = LoRA(r=2, targets="q_proj").attach(model)
    for name, p in handle.params.items():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    total_nll, tokens = 0.0, 0
    for row in rows:
        s = row["train"][0]
        ids = torch.as_tensor(s.ids, dtype=torch.long)
        labels = torch.where(torch.as_tensor(s.weight) > 0, ids, -100)
        with torch.no_grad():
            logits = handle.model(ids[None]).logits[0]
        total_nll += float(F.cross_entropy(logits[:-1], labels[1:], reduction="sum", ignore_index=-100))
        tokens += int(s.weight.sum())
    assert abs(loss - total_nll / tokens) < 1e-5


def test_tokens_after_a_segment_do_not_reach_it_and_neighbours_do_not_leak() -> None:
    rows = toy_rows(4)
    other = toy_rows(4, seed=9)
    needs = {"train": frozenset({"logp"})}
    with torch.no_grad():
        a = compute({"policy": Live(toy_llama())}, layout.collate([rows[0], *rows[1:]]), needs, Engine("packed"))["train"]["logp"]
        b = compute({"policy": Live(toy_llama())}, layout.collate([rows[0], *other[1:]]), needs, Engine("packed"))["train"]["logp"]
    n = len(rows[0]["train"][0].ids)
    assert float((a[:n] - b[:n]).abs().max()) < 1e-6


def test_junk_outside_the_mask_changes_nothing_and_gets_no_gradient() -> None:
    rows = toy_rows(4, ("chosen", "rejected"))
    parts = layout.collate(rows)
    junk = {p: replace(b, extras={"reference.logp": torch.where(b.weight_T != 0, -2.0, float("nan"))}) for p, b in parts.items()}
    clean = {p: replace(b, extras={"reference.logp": torch.where(b.weight_T != 0, -2.0, 0.0)}) for p, b in parts.items()}
    assert_same(loss_and_grads(DPO(), junk, Engine()), loss_and_grads(DPO(), clean, Engine()), 0.0)
    logp = {p: torch.randn(b.num_tokens, requires_grad=True) for p, b in parts.items()}
    signals = {p: {"logp": logp[p], "reference.logp": torch.zeros(b.num_tokens)} for p, b in parts.items()}
    loss_S = DPO()(parts, signals, Context(0, {}, Means()))
    reduce.reduce(loss_S, DPO(), parts["chosen"], 4.0).backward()
    for p, b in parts.items():
        assert (logp[p].grad[b.weight_T == 0] == 0).all()
        assert (logp[p].grad[b.weight_T != 0] != 0).all()


def test_dpo_at_the_reference_is_log_two_with_the_known_gradient() -> None:
    parts = layout.collate(toy_rows(3, ("chosen", "rejected")))
    logp = {p: torch.randn(b.num_tokens).requires_grad_() for p, b in parts.items()}
    signals = {p: {"logp": logp[p], "reference.logp": logp[p].detach().clone()} for p in parts}
    loss = reduce.reduce(DPO(beta=0.3)(parts, signals, Context(0, {}, Means())), DPO(), parts["chosen"], 3.0)
    loss.backward()
    assert abs(float(loss.detach()) - math.log(2)) < 1e-6
    # d/dlogp of -log sigmoid(beta * margin) at margin 0 is -beta / 2 on chosen tokens, +beta / 2 on rejected ones; three pairs share the mean.
    for part, sign in (("chosen", -1.0), ("rejected", 1.0)):
        expected = sign * 0.3 / 2 / 3 * (parts[part].weight_T != 0).float()
        assert torch.allclose(logp[part].grad, expected, atol=1e-7)


def test_dpo_value_by_hand() -> None:
    # One pair. Chosen ratio (-1 - 2) - (-4) = 1, rejected ratio -5 - (-3) = -2, margin 0.1 * 3 = 0.3: loss = log(1 + exp(-0.3)).
    parts = layout.collate([{"chosen": (Segment(np.array([5, 6, 7]), np.array([0, 1, 1], dtype=np.float32)),),
                             "rejected": (Segment(np.array([5, 8]), np.array([0, 1], dtype=np.float32)),)}])  # fmt: skip
    signals = {
        "chosen": {"logp": torch.tensor([0.0, -1.0, -2.0]), "reference.logp": torch.tensor([0.0, -4.0, 0.0])},
        "rejected": {"logp": torch.tensor([0.0, -5.0]), "reference.logp": torch.tensor([0.0, -3.0])},
    }
    log = Means()
    assert abs(float(DPO()(parts, signals, Context(0, {}, log))) - math.log1p(math.exp(-0.3))) < 1e-6
    assert log.means()["accuracy"] == 1.0 and abs(log.means()["margin"] - 0.3) < 1e-6
    smooth = DPO(label_smoothing=0.2)(parts, signals, Context(0, {}, Means()))
    assert abs(float(smooth) - (0.8 * math.log1p(math.exp(-0.3)) + 0.2 * math.log1p(math.exp(0.3)))) < 1e-6


@pytest.mark.parametrize(
    ("norm", "expected"),
    [("tokens", (1 + 2 + 3 * 2) / 4), ("segments", (1 + 2 + 3 * 2) / 2), ("segment_mean", (1.5 + 3) / 2), ("groups", 9.0), (10.0, 0.9)],
)
def test_divisors_by_hand(norm: Norm, expected: float) -> None:
    # Two segments of one group: losses 1, 2 with weight 1 and loss 3 with weight 2; context tokens hold junk; a third segment has nothing scored.
    row = {"train": (Segment(np.arange(3), np.array([0, 1, 1], dtype=np.float32)), Segment(np.arange(2), np.array([0, 2], dtype=np.float32)),
                     Segment(np.arange(2), np.zeros(2, dtype=np.float32)))}  # fmt: skip
    batch = layout.collate([row])["train"]
    losses = torch.tensor([99.0, 1.0, 2.0, float("nan"), 3.0, 5.0, 5.0])
    assert float(reduce.reduce(losses, NLL(norm=norm), batch, reduce.count(norm, batch))) == pytest.approx(expected)


def test_lora_off_is_the_base_bit_for_bit_and_bake_is_the_adapter() -> None:
    ids = torch.randint(3, VOCAB, (2, 9), generator=torch.Generator().manual_seed(0))
    base = toy_llama()
    with torch.no_grad():
        expected = base(ids).logits.clone()
    handle = LoRA(r=4).attach(base)
    for name, p in handle.params.items():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    with torch.no_grad():
        with handle.off() as off:
            assert torch.equal(off(ids).logits, expected)
        tuned = handle.model(ids).logits.clone()
        assert not torch.allclose(tuned, expected, atol=1e-2)
        baked = handle.bake()
        assert torch.allclose(baked(ids).logits, tuned, atol=1e-4)
    assert not any("lora" in name for name, _ in baked.named_parameters())


def test_full_off_is_the_start_after_training() -> None:
    ids = torch.randint(3, VOCAB, (2, 9), generator=torch.Generator().manual_seed(0))
    model = toy_llama()
    with torch.no_grad():
        expected = model(ids).logits.clone()
    handle = Full().attach(model)
    handle.keep_reference()
    with torch.no_grad():
        for p in handle.params.values():
            p.add_(0.1)
        with handle.off() as off:
            assert torch.equal(off(ids).logits, expected)


def test_full_only_trains_what_it_names() -> None:
    from tempering.data.streams import Shuffled

    model = toy_llama()
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    fit({"policy": Role(model, Full(only=r"layers\.1\."))}, NLL(), Shuffled(toy_rows(8), 4), steps=2, optimizer=Optimizer(lr=1e-2),
        schedule=Schedule(name="constant", warmup=0), training=Training(precision="fp32"), say=lambda _: None)  # fmt: skip
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, start[n])}
    assert moved == {n for n in start if "layers.1." in n}


def test_a_part_that_is_missing_fails_before_the_first_forward() -> None:
    parts = layout.collate(toy_rows(2))
    with pytest.raises(ValueError, match=r"DPO needs part 'chosen'; the stream yields \['train'\]"):
        count_terms(DPO(), [parts])


def test_activation_checkpointing_changes_no_gradient() -> None:
    from tempering.data.streams import Shuffled

    ends = []
    for checkpointing in (False, True):
        model = toy_llama()
        fit({"policy": Role(model, LoRA(r=4))}, NLL(), Shuffled(toy_rows(8), 4), steps=3, optimizer=Optimizer(lr=1e-2),
            training=Training(precision="fp32", checkpointing=checkpointing), say=lambda _: None)  # fmt: skip
        ends.append({n: p.detach().clone() for n, p in model.named_parameters() if "lora" in n})
    assert all(torch.allclose(ends[0][n], ends[1][n], atol=1e-6) for n in ends[0])


def test_bf16_is_close_to_fp32() -> None:
    parts = layout.collate(toy_rows(6))
    full, _ = loss_and_grads(NLL(), parts, Engine())
    half, _ = loss_and_grads(NLL(), parts, Engine(dtype=torch.bfloat16))
    assert 0 < abs(full - half) < 0.03 * abs(full)
