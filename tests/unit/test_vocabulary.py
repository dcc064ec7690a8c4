"""Signals over the whole vocabulary, and hidden states: equal to a plain computation, in chunks, with the gradients of autograd."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tempering import fused
from tempering.layout import collate
from tempering.models.value import ValueModel
from tempering.signals import Engine, Live, compute, owner
from tempering.vocabulary import EXTRA, ORDER, _Wide, wide_scores
from tests.toy import VOCAB, toy_llama, toy_rows


def plain(logits: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    logp = torch.log_softmax(logits, -1)
    return {
        "logp": logp.gather(-1, target[:, None])[:, 0],
        "logsumexp": logits.logsumexp(-1),
        "entropy": -(logp.exp() * logp).sum(-1),
        "mean_logp": logp.mean(-1),
        "logsumexp2": logp.exp().pow(2).sum(-1).log(),
        "max_logp": logp.max(-1).values,
    }


@pytest.mark.parametrize("chunk", [2**25, 3 * VOCAB])
@pytest.mark.parametrize("written", [True, False])
def test_values_and_gradients_equal_the_plain_twin(monkeypatch: pytest.MonkeyPatch, chunk: int, written: bool) -> None:
    monkeypatch.setattr(fused, "CHUNK_ELEMENTS", chunk)
    monkeypatch.setattr(fused, "ROW_ELEMENTS", 2 * VOCAB)
    hidden, target = torch.randn(11, 8), torch.randint(VOCAB, (11,))
    mix = torch.randn(len(ORDER), 11)
    found = []
    for way in (0, 1):
        layer = nn.Linear(8, VOCAB, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(VOCAB, 8, generator=torch.Generator().manual_seed(2)))
        h = hidden.clone().requires_grad_()
        values = wide_scores(layer, layer if written else None, h, target, EXTRA) if way else plain(layer(h), target)
        sum((values[name] * w).sum() for name, w in zip(ORDER, mix, strict=True)).backward()
        found.append([*(values[name].detach() for name in ORDER), h.grad, layer.weight.grad])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_gradients_by_finite_differences() -> None:
    hidden = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h, w: _Wide.apply(h, w, torch.tensor([0, 6, 2, 2])), (hidden, weight))


def test_uniform_and_certain_predictions() -> None:
    layer = nn.Linear(1, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0], [0.0], [0.0], [100.0]]))
    found = wide_scores(layer, layer, torch.tensor([[0.0], [1.0]]), torch.tensor([1, 3]), EXTRA)
    quarter = torch.tensor(0.25).log()
    assert found["mean_logp"].tolist() == pytest.approx([float(quarter), -75.0])
    assert found["logsumexp2"].tolist() == pytest.approx([float(quarter), 0.0])
    assert found["max_logp"].tolist() == pytest.approx([float(quarter), 0.0])


@pytest.mark.parametrize("kind", ["padded", "packed", "segments"])
def test_the_engine_gives_them_in_every_layout(kind: str) -> None:
    rows = toy_rows(5)
    parts, model = collate(rows), toy_llama()
    names = frozenset({"logp", "hidden", "hidden.1", "hidden.0", *EXTRA})
    with torch.no_grad():
        found = compute({"policy": Live(model)}, parts, {"train": names}, Engine(kind))["train"]  # type: ignore[arg-type]
        at = 0
        for row in rows:
            ids = torch.as_tensor(row["train"][0].ids, dtype=torch.long)
            scored = torch.as_tensor(row["train"][0].weight != 0)
            out = model(ids[None], output_hidden_states=True)
            here = {name: value[at : at + len(ids)] for name, value in found.items()}
            expected = plain(out.logits[0, :-1], ids[1:])
            for name in ("logp", *EXTRA):
                torch.testing.assert_close(here[name][1:][scored[1:]], expected[name][scored[1:]], atol=1e-5, rtol=1e-5)
            for name, state in (("hidden", out.hidden_states[-1]), ("hidden.1", out.hidden_states[1]), ("hidden.0", out.hidden_states[0])):
                torch.testing.assert_close(here[name][scored], state[0][scored], atol=1e-5, rtol=1e-5)
            assert all((value[~scored] == 0).all() for value in here.values())
            at += len(ids)


def test_names_are_taken_apart() -> None:
    assert [owner(n) for n in ("logp", "a.logp", "hidden.3", "a.hidden.12")] == [
        ("policy", "logp"), ("a", "logp"), ("policy", "hidden.3"), ("a", "hidden.12"),
    ]  # fmt: skip


def test_a_layer_or_a_head_that_is_not_there_is_named() -> None:
    parts = collate(toy_rows(1))
    model, valued = toy_llama(), ValueModel(toy_llama(), outputs=2)
    for roles, name, match in (
        (model, "hidden.3", r"the states 0 \(embeddings\) to 2"), (model, "hidden.x", "no role 'hidden'|unknown signal"),
        (model, "reward", "no value head"), (valued, "logp", "has a value head"), (valued, "reward", "2 outputs"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            compute({"policy": Live(roles)}, parts, {"train": frozenset({name})}, Engine())


def test_a_value_head_before_and_after_a_token() -> None:
    parts, model = collate(toy_rows(4)), ValueModel(toy_llama(), outputs=3)
    nn.init.normal_(model.value_head.weight)
    with torch.no_grad():
        found = compute({"policy": Live(model)}, parts, {"train": frozenset({"values", "rewards", "hidden"})}, Engine())["train"]
        scored = parts["train"].weight_T != 0
        torch.testing.assert_close(found["rewards"][scored], model.value_head(found["hidden"][scored]))
        both = (scored[1:] & scored[:-1]).nonzero().squeeze(-1)
        torch.testing.assert_close(found["values"][both + 1], found["rewards"][both])
    assert found["rewards"].shape == (parts["train"].num_tokens, 3)


def test_an_unscored_part_has_the_right_shapes() -> None:
    parts = collate(toy_rows(2))
    parts["train"].weight_T.zero_()  # type: ignore[index]
    found = compute({"policy": Live(toy_llama())}, parts, {"train": frozenset({"hidden", "mean_logp"})}, Engine())["train"]
    assert found["hidden"].shape == (parts["train"].num_tokens, 32) and not found["hidden"].any()
    assert found["mean_logp"].shape == (parts["train"].num_tokens,)
