"""Attention by segments and fused log-probs against their plain twins: the same values and gradients, in float32 and within a bound in bfloat16."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tempering import attention, fused
from tempering.forest import MIN_SHARED, Plan, plant


def naive(q: Tensor, k: Tensor, v: Tensor, segments: list[np.ndarray], slots: list[np.ndarray], scale: float, window: int | None) -> list[Tensor]:
    """Each segment alone, heads repeated, softmax written out: [H, tokens, D] a segment."""
    found = []
    per = q.shape[1] // k.shape[1]
    for slot in slots:
        at = torch.from_numpy(slot)
        mine, keys, values = q[0][:, at], k[0][:, at].repeat_interleave(per, 0), v[0][:, at].repeat_interleave(per, 0)
        rows, columns = torch.arange(len(slot))[:, None], torch.arange(len(slot))
        hidden = (columns > rows) | ((columns <= rows - window) if window is not None else torch.zeros(1, dtype=torch.bool))
        scores = (mine @ keys.transpose(1, 2) * scale).masked_fill(hidden, -torch.inf)
        found.append(scores.softmax(-1) @ values)
    return found


@st.composite
def texts(draw: st.DrawFn) -> list[np.ndarray]:
    """Segments that share beginnings of random lengths: a tree of random tokens, three deep."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))

    def grow(depth: int) -> list[np.ndarray]:
        own = rng.integers(0, 9, int(rng.integers(0, 3 * MIN_SHARED)))
        if depth == 0:
            return [np.concatenate([own, rng.integers(0, 9, int(rng.integers(1, 100)))])]
        return [np.concatenate([own, text]) for _ in range(int(rng.integers(1, 4))) for text in grow(depth - 1)]

    return grow(draw(st.integers(0, 2)))


def slots_of(segments: list[np.ndarray], slot_T: np.ndarray) -> list[np.ndarray]:
    return np.split(slot_T, np.cumsum([len(s) for s in segments])[:-1])


@settings(max_examples=60, deadline=None)
@given(texts(), st.booleans())
def test_a_forest_holds_every_segment_and_shares_what_it_can(segments: list[np.ndarray], share: bool) -> None:
    forest = plant(segments, share=share)
    for segment, slot in zip(segments, slots_of(segments, forest.slot_T), strict=True):
        assert (forest.ids_N[slot] == segment).all()
        assert (forest.position_N[slot] == np.arange(len(segment))).all()
    covered = [i for node in forest.nodes for i in range(node.start, node.end)]
    assert covered == list(range(len(forest.ids_N)))
    if not share:
        assert len(forest.ids_N) == sum(map(len, segments)) and all(not node.before for node in forest.nodes)
    # What a node attends to are the tokens of its segments before it: the positions from 0 to its start, without a gap.
    for node in forest.nodes:
        before = [p for a, b in node.before for p in forest.position_N[a:b]]
        assert before == list(range(node.offset)) and forest.position_N[node.start] == node.offset
    # No two segments that start alike by MIN_SHARED tokens or more keep two copies of them.
    if share:
        for i, a in enumerate(segments):
            for j, b in enumerate(segments[:i]):
                common = next((t for t, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
                if common >= MIN_SHARED:
                    first, second = (slots_of(segments, forest.slot_T)[s] for s in (i, j))
                    assert (first[: common - MIN_SHARED + 1] == second[: common - MIN_SHARED + 1]).all()


@settings(max_examples=40, deadline=None)
@given(texts(), st.sampled_from([None, 5, 40]), st.booleans(), st.integers(0, 99))
def test_attention_equals_each_segment_alone(segments: list[np.ndarray], window: int | None, plain: bool, seed: int) -> None:
    forest = plant(segments)
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(1, heads, len(forest.ids_N), 8, generator=generator).requires_grad_() for heads in (6, 2, 2))
    how = (q, k, v, Plan(forest.nodes), 0.3, window)
    out = attention._plain(*how, 0.0) if plain else attention._Segments.apply(*how, torch.float32)
    slots = slots_of(segments, forest.slot_T)
    expected = naive(q, k, v, segments, slots, 0.3, window)
    for mine, slot in zip(expected, slots, strict=True):
        assert torch.allclose(out[0][:, torch.from_numpy(slot)], mine, atol=2e-6)
    # Every segment asks for something else of every token, so shared tokens collect what all of them ask.
    weights = [torch.randn(m.shape, generator=generator) for m in expected]
    grads = torch.autograd.grad(sum((m * w).sum() for m, w in zip(expected, weights, strict=True)), (q, k, v), retain_graph=True)
    loss = sum((out[0][:, torch.from_numpy(slot)] * w).sum() for slot, w in zip(slots, weights, strict=True))
    for mine, theirs in zip(torch.autograd.grad(loss, (q, k, v)), grads, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5 * max(1.0, float(theirs.abs().max())))


@settings(max_examples=25, deadline=None)
@given(texts(), st.sampled_from([0.25, 0.3]), st.integers(0, 99))
def test_half_precision_is_as_close_as_its_rounding(segments: list[np.ndarray], scale: float, seed: int) -> None:
    forest = plant(segments)
    generator = torch.Generator().manual_seed(seed)
    exact = [torch.randn(1, heads, len(forest.ids_N), 16, generator=generator) for heads in (6, 2, 2, 6)]
    # The same numbers in both precisions, so that only the arithmetic differs.
    half = [x.bfloat16() for x in exact]
    results = []
    for q, k, v, g in (half, [x.float() for x in half]):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out = attention._Segments.apply(*leaves, Plan(forest.nodes), scale, None, q.dtype)
        results.append([out.detach(), *torch.autograd.grad((out * g).sum(), leaves)])
    for mine, theirs in zip(*results, strict=True):
        # bfloat16 has 8 bits: a relative step of 2^-8; four in a row at most, of products of numbers as large as 4.
        assert float((mine.float() - theirs).abs().max()) <= 4 * 2**-8 * max(4.0, float(theirs.abs().max()))


def test_a_number_of_each_row_is_subtracted_by_the_matmul_as_exactly_as_float32_holds_it() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, size, 8, generator=generator).bfloat16() for size in (attention.UNIT + 1, 5))
    number = 100 * torch.randn(2, attention.UNIT + 1, 1, generator=generator)
    left, right = attention._less(x, number), attention._less(y)
    assert left.shape[1] == 2 * attention.UNIT and right.shape[1] == attention.UNIT
    found = left.double() @ right.double().mT
    expected = x.double() @ y.double().mT - number.double()
    assert torch.allclose(found[:, : x.shape[1], : y.shape[1]], expected, rtol=0, atol=float(number.abs().max()) * 2**-23)
    assert not found[:, x.shape[1] :].any() and not found[:, :, y.shape[1] :].any()


SIGNALS = [{"logp"}, {"entropy"}, {"logsumexp"}, {"logp", "logsumexp"}, {"logp", "entropy", "logsumexp"}]


@pytest.mark.parametrize("rows", [1, 3, 1000])
@pytest.mark.parametrize("trains", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("signals", SIGNALS, ids=lambda s: "+".join(sorted(s)))
def test_fused_scores_and_gradients_equal_autograd(rows: int, trains: bool, signals: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = 37
    monkeypatch.setattr(fused, "CHUNK_ELEMENTS", rows * vocabulary)
    monkeypatch.setattr(fused, "PASSING_ELEMENTS", rows * vocabulary)
    monkeypatch.setattr(fused, "ROW_ELEMENTS", max(1, rows // 2) * vocabulary)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(11, 8, generator=generator, dtype=torch.float32).requires_grad_()
    weight = torch.randn(vocabulary, 8, generator=generator).requires_grad_()
    layer = torch.nn.Linear(8, vocabulary, bias=False)
    layer.weight = torch.nn.Parameter(weight.detach().clone(), requires_grad=trains)
    target = torch.randint(0, vocabulary, (11,), generator=generator)
    found = fused.scores(layer, layer, hidden, target, frozenset(signals))
    logp_NV = F.log_softmax(hidden @ weight.T, -1)
    plain = {
        "logp": logp_NV.gather(-1, target[:, None])[:, 0],
        "entropy": -(logp_NV.exp() * logp_NV).sum(-1),
        "logsumexp": torch.logsumexp(hidden @ weight.T, -1),
    }
    ask = {name: torch.randn(11, generator=generator) for name in sorted(signals)}
    for name in signals:
        assert torch.allclose(found[name], plain[name], atol=1e-5)
    moved = ((hidden, layer.weight), (hidden, weight)) if trains else ((hidden,), (hidden,))
    mine = torch.autograd.grad(sum((found[n] * a).sum() for n, a in ask.items()), moved[0])
    theirs = torch.autograd.grad(sum((plain[n] * a).sum() for n, a in ask.items()), moved[1])
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_a_frozen_output_layer_is_multiplied_with_twice_and_nothing_of_its_vocabulary_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a token that is all but certain the gradient keeps its digits in bfloat16: the difference from 1 is made before it is rounded."""
    vocabulary, width = 512, 8
    monkeypatch.setattr(fused, "PASSING_ELEMENTS", 16 * vocabulary)
    generator = torch.Generator().manual_seed(0)
    hidden = (torch.randn(40, width, generator=generator) * torch.linspace(0.1, 4, 40)[:, None]).bfloat16()
    layer = torch.nn.Linear(width, vocabulary, bias=False)
    layer.weight = torch.nn.Parameter(torch.randn(vocabulary, width, generator=generator).bfloat16(), requires_grad=False)
    target = (hidden.float() @ layer.weight.float().T).argmax(-1)
    products, sizes, kept = [], [], []
    mm, take = torch.mm, fused._POOL.take
    monkeypatch.setattr(fused.torch, "mm", lambda *a, **k: products.append(1) or mm(*a, **k))
    monkeypatch.setattr(fused._POOL, "take", lambda use, shape, like: sizes.append(shape) or take(use, shape, like))
    leaf = hidden.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        logp = fused.scores(layer, layer, leaf, target, frozenset({"logp"}))["logp"]
    # 40 tokens in chunks of at most 16: three of 14, 14 and 12.
    assert sizes == [(14, vocabulary), (14, vocabulary), (12, vocabulary)]
    assert max(kept) == hidden.numel()
    before = len(products)
    (found,) = torch.autograd.grad(logp.sum(), leaf)
    assert len(products) == before == 3  # the products with the gradient are matmuls, and none is in the backward pass
    # What is left to differ, once the logits are rounded, is the rounding of the difference, of its product and of the slope.
    logits = (hidden @ layer.weight.T).double()
    expected = (F.one_hot(target, vocabulary) - logits.softmax(-1)) @ layer.weight.double()
    sure = logits.softmax(-1).amax(-1) > 0.99
    assert 0 < int(sure.sum()) < len(sure)
    for rows in (sure, ~sure):
        assert float((found.double() - expected)[rows].norm() / expected[rows].norm()) < 2**-6


def test_fused_scores_hold_one_chunk_of_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor of more than a chunk's elements is ever made, however many tokens are scored; the output layer's own gradient aside."""
    from torch.utils._python_dispatch import TorchDispatchMode

    vocabulary, width = 512, 8
    monkeypatch.setattr(fused, "CHUNK_ELEMENTS", 16 * vocabulary)
    monkeypatch.setattr(fused, "ROW_ELEMENTS", 4 * vocabulary)
    largest = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            largest.append(max((x.numel() for x in (out if isinstance(out, tuple | list) else (out,)) if isinstance(x, Tensor)), default=0))
            return out

    hidden, layer = torch.randn(400, width, requires_grad=True), torch.nn.Linear(width, vocabulary, bias=False)
    with Watch():
        fused.scores(layer, layer, hidden, torch.zeros(400, dtype=torch.long), frozenset({"logp"}))["logp"].sum().backward()
    assert max(largest) == 16 * vocabulary < 400 * vocabulary
