"""The pass on mixed inputs: the engine's equals a plain one by hand, in every layout, for values and gradients; and the loss that reads it, IFT."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tempering.cases import Case
from tempering.fit import Means, count_terms, total
from tempering.layout import LayoutKind, collate, split
from tempering.methods.objectives.ift import IFT
from tempering.methods.objectives.nll import NLL
from tempering.methods.scopes.full import Full
from tempering.methods.scopes.lora import LoRA
from tempering.mixed import Mix, arrange_mixed, share_of
from tempering.models.value import ValueModel
from tempering.proof import hand
from tempering.signals import Engine, Live, compute, is_signal, owner
from tempering.types import Objective, Role, Row, Segment
from tests.toy import VOCAB, toy_llama, toy_rows
from tests.unit.test_models_heads import FAMILIES, make

SIGNALS = frozenset({"mixed.0.3.logp"})


def by_hand(model: Any, segment: Segment, share: float) -> tuple[Tensor, Tensor]:
    """Log-probs [T - 1] of the tokens from the second on, and the guesses [T - 1], by two calls of the model itself."""
    ids = torch.as_tensor(segment.ids, dtype=torch.long)
    with torch.no_grad():
        guess = model(input_ids=ids[None], use_cache=False).logits[0, :-1].argmax(-1)
    embed = model.get_input_embeddings()
    scored = torch.as_tensor(segment.weight[1:] != 0)
    mixed = torch.where(scored[:, None], (1 - share) * embed(ids[1:]) + share * embed(guess), embed(ids[1:]))
    logits = model(inputs_embeds=torch.cat([embed(ids[:1]), mixed])[None], use_cache=False).logits[0, :-1]
    return logits.log_softmax(-1).gather(-1, ids[1:, None])[:, 0] * scored, guess * scored


@pytest.mark.parametrize("kind", ["padded", "packed", "segments"])
@pytest.mark.parametrize("train", [False, True])
def test_the_engine_s_pass_equals_two_calls_of_the_model(kind: LayoutKind, train: bool) -> None:
    rows = toy_rows(5)
    parts = collate(rows)
    one = toy_llama()
    other = copy.deepcopy(one)
    roles = {"policy": Live.attach(Role(one.train(train), Full()))}
    found = compute(roles, parts, {"train": SIGNALS | {"guess", "logp"}}, Engine(kind))["train"]
    assert one.training is train
    expected = [by_hand(other, row["train"][0], 0.3) for row in rows]
    pad = torch.zeros(1)
    torch.testing.assert_close(found["mixed.0.3.logp"], torch.cat([torch.cat([pad, logp]) for logp, _ in expected]), atol=1e-5, rtol=1e-5)
    assert found["guess"].tolist() == [g for _, guess in expected for g in (0, *guess.tolist())]
    assert not torch.allclose(found["mixed.0.3.logp"], found["logp"], atol=1e-2)
    (found["mixed.0.3.logp"] ** 2).sum().backward()
    sum((logp**2).sum() for logp, _ in expected).backward()  # type: ignore[union-attr]
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_other_families_too(family: str) -> None:
    model, rows = make(family), toy_rows(3, seed=2)
    found = compute({"policy": Live(model)}, collate(rows), {"train": SIGNALS}, Engine())["train"]["mixed.0.3.logp"]
    expected = torch.cat([torch.cat([torch.zeros(1), by_hand(model, row["train"][0], 0.3)[0]]) for row in rows])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_what_two_answers_begin_with_is_shared_only_where_both_are_scored_alike() -> None:
    """A long prompt and the beginning of two answers; in a third row the same tokens are context, and keep their embeddings."""
    rng = np.random.default_rng(0)
    prompt, begin = rng.integers(3, VOCAB, 20), rng.integers(3, VOCAB, 20)
    rows: list[Row] = []
    for ending, scored_from in ((5, 20), (6, 20), (7, 40)):
        ids = np.concatenate([prompt, begin, rng.integers(3, VOCAB, ending)]).astype(np.int32)
        rows.append({"train": (Segment(ids, (np.arange(len(ids)) >= scored_from).astype(np.float32)),)})
    batch = collate(rows)["train"]
    layout = arrange_mixed(batch, "segments")
    assert layout.ids_RL.flatten()[layout.slot_T].tolist() == batch.ids_T.tolist()
    # The prompt once, the scored beginning once, the same beginning as context once, three endings.
    assert layout.ids_RL.numel() == 20 + 20 + 20 + 5 + 6 + 7
    grads = []
    for share in (True, False):
        model = toy_llama()
        found = compute({"policy": Live.attach(Role(model, Full()))}, collate(rows), {"train": SIGNALS}, Engine(share=share))["train"]
        found["mixed.0.3.logp"].pow(2).sum().backward()
        grads.append([found["mixed.0.3.logp"].detach(), *(p.grad for p in model.parameters())])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-4)


def test_context_keeps_its_embeddings() -> None:
    rows, model = toy_rows(3), toy_llama()
    batch = collate(rows)["train"]
    layout = arrange_mixed(batch, "padded")
    with torch.no_grad():
        embed_TD = model.get_input_embeddings()(batch.ids_T)
        mixed_TD = Mix(1.0, batch.ids_T * 0 + 7)(model, batch, layout).flatten(0, 1)[layout.slot_T]
    scored = batch.weight_T != 0
    torch.testing.assert_close(mixed_TD[~scored], embed_TD[~scored], atol=0, rtol=0)
    torch.testing.assert_close(mixed_TD[scored], model.get_input_embeddings().weight[7].expand(int(scored.sum()), -1), atol=1e-6, rtol=1e-6)


def test_several_shares_parts_and_an_empty_part_in_one_go() -> None:
    parts = collate(toy_rows(4, ("a", "b")))
    parts["b"].weight_T.zero_()
    names = frozenset({"logp", "mixed.0.3.logp", "mixed.1e-07.logp", "mixed.1.0.entropy", "mixed.0.3.hidden.0"})
    with torch.no_grad():
        found = compute({"policy": Live(toy_llama())}, parts, {"a": names, "b": names}, Engine())
        alone = compute({"policy": Live(toy_llama())}, parts, {"a": SIGNALS}, Engine())
    assert found["a"].keys() == found["b"].keys() == names
    assert all(not value.any() for value in found["b"].values())
    torch.testing.assert_close(found["a"]["mixed.0.3.logp"], alone["a"]["mixed.0.3.logp"])
    torch.testing.assert_close(found["a"]["mixed.1e-07.logp"], found["a"]["logp"], atol=1e-4, rtol=1e-4)


def test_names() -> None:
    assert [owner(name) for name in ("mixed.0.2.logp", "teacher.mixed.1.0.hidden.3")] == [
        ("policy", "mixed.0.2.logp"), ("teacher", "mixed.1.0.hidden.3"),
    ]  # fmt: skip
    assert share_of("mixed.0.2.logp") == (0.2, "logp") and share_of("mixed.1e-07.hidden.3") == (1e-7, "hidden.3")
    assert all(is_signal(name) for name in ("mixed.0.2.logp", "reference.mixed.1.logp", "guess"))
    assert not any(is_signal(name) for name in ("mixed.0.logp", "mixed.1.5.logp", "mixed.logp", "mixed.x.logp", "mixed.0.2.label"))


def test_a_value_head_has_no_guesses() -> None:
    with pytest.raises(ValueError, match="'guess': the model has a value head"):
        compute({"policy": Live(ValueModel(toy_llama()))}, collate(toy_rows(1)), {"train": frozenset({"mixed.0.5.value"})}, Engine())


# ------------------------------------------------------------------------------------------------------------------------------------------- IFT


def step(objective: Objective, model: Any, rows: list[Row], micro_tokens: int | None = None) -> tuple[float, list[Tensor]]:
    live, parts = Live.attach(Role(copy.deepcopy(model), Full())), collate(rows)
    micros = [(lambda m=m: m) for m in split(parts, micro_tokens)]
    loss = total({"policy": live}, objective, micros, count_terms(objective, [parts]), 0, Engine(), Means())
    return loss, [p.grad for p in live.handle.params.values()]  # type: ignore[union-attr, misc]


def test_without_guesses_and_foresight_it_is_the_mean_cross_entropy_of_each_answer() -> None:
    rows, model = toy_rows(6), toy_llama()
    one, other = step(IFT(share=0, gamma=0), model, rows), step(NLL(norm="segment_mean"), model, rows)
    assert one[0] == other[0] and all(torch.equal(a, b) for a, b in zip(one[1], other[1], strict=True))


def test_micro_batches_change_nothing() -> None:
    rows, model = toy_rows(6), toy_llama()
    one, other = step(IFT(), model, rows), step(IFT(), model, rows, 20)
    assert one[0] == pytest.approx(other[0], abs=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one[1], other[1], strict=True))


def weights_of(gamma: float, losses: list[list[float]], token_weights: list[list[float]]) -> list[Tensor]:
    """w_t of each answer: with the weights taken as numbers they are the slopes, but for the divisors."""
    signals = {"train": {"logp": [[-x for x in row] for row in losses]}}
    case = Case("", IFT(share=0, gamma=gamma, stop=True), signals, loss=0, weights={"train": token_weights})
    slopes = hand.run(case.objective, hand.tensors(case)).gradient["train/logp"].split([len(row) for row in losses])
    return [-slope * len(losses) * sum(w) / torch.tensor(w) for slope, w in zip(slopes, token_weights, strict=True)]


LOSSES, ONES = [[0.5, 3.0, 1.0, 0.1], [2.0], [1.0, 4.0]], [[1.0] * 4, [1.0], [1.0] * 2]


@pytest.mark.parametrize("gamma", [0.0, 1e-6, 0.5, 0.95, 1.0])
def test_weights_sum_to_the_number_of_targets(gamma: float) -> None:
    for w, losses in zip(weights_of(gamma, LOSSES, ONES), LOSSES, strict=True):
        assert float(w.sum()) == pytest.approx(len(losses), rel=1e-6)
    halves = [[1.0, 0.5, 0.5, 2.0], [3.0], [1.0, 0.25]]
    for w, h in zip(weights_of(gamma, LOSSES, halves), halves, strict=True):
        assert float((w * torch.tensor(h)).sum()) == pytest.approx(sum(h), rel=1e-6)


def test_gamma_0_is_not_its_limit_in_which_a_token_counts_for_its_own_loss() -> None:
    assert all(torch.allclose(w, torch.ones_like(w)) for w in weights_of(0.0, LOSSES, ONES))
    for w, losses in zip(weights_of(1e-9, LOSSES, ONES), LOSSES, strict=True):
        expected = torch.tensor(losses, dtype=torch.float64)
        torch.testing.assert_close(w, expected * len(losses) / expected.sum(), atol=1e-6, rtol=1e-6)


def test_adapters_train_through_it() -> None:
    torch.manual_seed(0)
    live, parts = Live.attach(Role(toy_llama(), LoRA(r=4))), collate(toy_rows(4))
    loss = total({"policy": live}, IFT(), [lambda: parts], count_terms(IFT(), [parts]), 0, Engine(), Means())
    assert loss > 0 and any(p.grad is not None and bool(p.grad.any()) for p in live.handle.params.values())  # type: ignore[union-attr]
