"""The output layer's buffers and gradients: used again without being mixed up, added where gradients are summed, and only where nobody watches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tempering import fused
from tempering.models.lighter import lighter

VOCAB, WIDTH, SIZE = 40, 8, 13


def parts(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SIZE, WIDTH, generator=generator), torch.randint(VOCAB, (SIZE,), generator=generator)


def logps(head: nn.Linear, hidden: Tensor, target: Tensor) -> Tensor:
    return fused.scores(head, head, hidden, target, frozenset({"logp"}))["logp"]


def plain(head: nn.Linear, hidden: Tensor, target: Tensor) -> Tensor:
    return F.log_softmax(head(hidden), -1).gather(-1, target[:, None])[:, 0]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "CHUNK_ELEMENTS", 5 * VOCAB)  # three chunks
    monkeypatch.setattr(fused, "_POOL", fused._Pool())


def both(head: nn.Linear, *, accumulate: bool) -> tuple[Tensor, Tensor]:
    """Gradients of two micro-batches, by ours and by autograd; their forward passes both stand before the first backward pass."""
    found = []
    for function in (logps, plain):
        head.weight.grad = None
        with fused.accumulating(accumulate):
            losses = [(function(head, *parts(seed)) * torch.arange(1, SIZE + 1)).sum() for seed in (0, 1)]
            for loss in losses:
                loss.backward()
        found.append(head.weight.grad)
    return found[0], found[1]


@pytest.mark.parametrize("accumulate", [True, False])
def test_gradients_of_two_micro_batches_are_autograds(accumulate: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = both(nn.Linear(WIDTH, VOCAB, bias=False), accumulate=accumulate)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_hook_that_watches_the_gradient_sees_every_micro_batch() -> None:
    torch.manual_seed(0)
    head, seen = nn.Linear(WIDTH, VOCAB, bias=False), []
    head.weight.register_post_accumulate_grad_hook(lambda p: seen.append(float(p.grad.norm())))
    both(head, accumulate=True)
    assert len(seen) == 4 and 0 not in seen


def test_buffers_are_given_back_and_used_again_one_for_each_use() -> None:
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, VOCAB, bias=False)

    def held() -> dict[str, int]:
        return {use: buffer.data_ptr() for use, buffer in fused._POOL.free.items()}

    logps(head, *parts(0)).sum().backward()
    first = held()
    assert set(first) == {"logits", "block"} and len(set(first.values())) == 2
    logps(head, *parts(1)).sum().backward()
    assert held() == first
    # Two micro-batches at once: the second has a buffer of its own, and of both one stays.
    losses = [logps(head, *parts(seed)).sum() for seed in (0, 1)]
    assert "logits" not in fused._POOL.free
    for loss in losses:
        loss.backward()
    assert set(held()) == set(first)
    with torch.no_grad():
        logps(head, *parts(2))
    assert set(held()) == set(first) and len(set(held().values())) == 2
    fused.forget()
    assert not fused._POOL.free


def test_a_larger_buffer_serves_the_smaller_and_takes_its_place() -> None:
    pool, like = fused._Pool(), torch.zeros(1)
    small, large = pool.take("logits", (2, 3), like), pool.take("logits", (4, 5), like)
    pool.give("logits", large)
    pool.give("logits", small)
    again = pool.take("logits", (2, 2), like)
    assert again.data_ptr() == large.data_ptr() and again.shape == (2, 2)
    pool.give("logits", again)
    assert pool.free["logits"].numel() == 20
    assert pool.take("logits", (2, 2), like.double()).dtype == torch.float64
    assert not pool.free


@pytest.mark.parametrize("padding", [None, 3])
def test_embeddings_of_two_micro_batches_are_autograds(padding: int | None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(VOCAB, WIDTH, padding_idx=padding))
    ids = torch.tensor([[3, 5, 5, 7], [3, 0, 5, 39]])
    found = []
    for context in (lighter(model), fused.accumulating(False)):
        model.zero_grad()
        with context, fused.accumulating(True):
            for scale in (1.0, -2.0):
                (model(ids) * torch.arange(1, WIDTH + 1) * scale).sum().backward()
        found.append(model[0].weight.grad)
    assert torch.equal(found[0], found[1]) and bool((found[0][5] != 0).all())
    assert bool((found[0][3] == 0).all()) == (padding == 3)


def test_a_tied_weight_has_the_bits_of_autograds_gradient_and_never_a_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "CHUNK_ELEMENTS", 64 * VOCAB)  # one chunk: the product of a weight's gradient is one sum
    torch.manual_seed(0)
    embed = nn.Embedding(VOCAB, WIDTH)
    head = nn.Linear(WIDTH, VOCAB, bias=False)
    head.weight = embed.weight
    ids = torch.tensor([3, 5, 5, 7, 3, 0, 5, 39])
    found, dense = [], []
    original = torch.ops.aten.embedding_dense_backward
    monkeypatch.setattr(torch.ops.aten, "embedding_dense_backward", lambda *a: dense.append(a[2]) or original(*a))
    for accumulate in (False, True):
        embed.zero_grad()
        dense.clear()
        with lighter(embed), fused.accumulating(accumulate):
            for turn in (0, 3):
                (logps(head, torch.tanh(embed(ids.roll(turn))), ids) * torch.arange(1, len(ids) + 1)).sum().backward()
        found.append(embed.weight.grad)
        assert dense == [len(ids) if accumulate else VOCAB] * 2
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)
    with lighter(embed):
        first = [torch.zeros(0), torch.zeros(0)]
        for i, accumulate in enumerate((False, True)):
            embed.zero_grad()
            with fused.accumulating(accumulate):
                logps(head, embed(ids), ids).sum().backward()
            first[i] = embed.weight.grad
    assert torch.equal(first[0], first[1])
