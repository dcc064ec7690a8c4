"""Scoring given continuations, divergences, and running probes, on random Llamas built in memory."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats

from tempering import measure as measuring
from tempering.errors import UserError
from tempering.measure import headroom, kl_from, logps_of, measure, score_pairs
from tempering.methods.decodes.mixture import Mixture
from tempering.types import ItemScore, Policy, ProbeScores
from tests.conftest import make_llama, make_tokenizer


def policy(**changes) -> Policy:
    return Policy(make_llama(**changes), make_tokenizer(), "tiny")


def random_pairs(seed: int = 0) -> list:
    """Shared and lone prompts of all lengths, continuations of all lengths, a repeated pair and an empty continuation."""
    rng = np.random.default_rng(seed)
    ids = lambda low, high: rng.integers(4, 274, rng.integers(low, high)).tolist()  # noqa: E731
    prompts = [ids(1, 30) for _ in range(7)]
    pairs = [(prompts[k], ids(1, 12)) for k in (0, 1, 1, 2, 3, 3, 3, 3, 4, 4, 5, 6, 6)]
    pairs += [([9], ids(1, 5)), ([9], ids(5, 9)), pairs[2], (prompts[0], [])]
    return [pairs[i] for i in rng.permutation(len(pairs))]


def plain_logps(model, prompt, continuation) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *continuation]]), use_cache=False).logits[0].float()
    return logits[len(prompt) - 1 : -1].log_softmax(-1).gather(1, torch.tensor(continuation, dtype=torch.long)[:, None])[:, 0]


@pytest.mark.parametrize("batch_tokens", [1, 60, 100_000])
@pytest.mark.parametrize("split", [True, False], ids=["body and head", "whole logits"])
def test_logps_equal_one_by_one(batch_tokens, split, monkeypatch):
    if not split:
        monkeypatch.setattr("tempering.models.heads.body_and_head", lambda model: None)
    monkeypatch.setattr(measuring, "CHUNK_ELEMENTS", 274 * 5)
    p, pairs = policy(), random_pairs()
    calls = []
    found = logps_of(p, pairs, batch_tokens=batch_tokens, progress=lambda done, total: calls.append((done, total)))
    for (prompt, continuation), logps in zip(pairs, found, strict=True):
        torch.testing.assert_close(logps, plain_logps(p.model, prompt, continuation), atol=1e-5, rtol=0)
    assert calls[-1] == (len(pairs) - 1, len(pairs)) and found[[len(c) for _, c in pairs].index(0)].shape == (0,)
    assert logps_of(p, []) == []


def test_greedy_flags_and_other_samples_do_not_leak():
    p = policy()
    best = int(p.model(torch.tensor([[5, 6]])).logits[0, -1].argmax())
    pair, other = ([5, 6], [best, 7]), ([5, 6], [best + 1, 8])
    (logps, tops), (_, other_tops) = score_pairs(p, [pair, other])
    assert bool(tops[0]) and not bool(other_tops[0])
    for junk in (9, 99):
        again = score_pairs(p, [pair, ([5, 6], [junk] * 20), ([junk] * 40, [junk, junk])])[0][0]
        torch.testing.assert_close(again, logps, atol=1e-6, rtol=0)


def test_logps_after_the_decode_chain():
    p, other = policy(), make_llama(seed=1)
    mixed = Policy(p.model, p.tokenizer, decode=(Mixture(0.3),), roles={"other": other})
    pairs = random_pairs(1)
    for (prompt, continuation), logps in zip(pairs, logps_of(mixed, pairs), strict=True):
        ours, theirs = (plain_logps(m, prompt, continuation).exp() for m in (p.model, other))
        torch.testing.assert_close(logps, (0.3 * ours + 0.7 * theirs).log(), atol=1e-4, rtol=0)


def test_a_decode_sees_the_tokens_before_each_scored_position():
    p, seen = policy(), []

    @dataclass
    class Watch:
        roles: tuple[str, ...] = ()

        def __call__(self, tokens_RL, logits):
            seen.extend([t for t in row if t >= 0] for row in tokens_RL.tolist())
            return logits["policy"]

    p.decode = (Watch(),)
    logps_of(p, [([5, 6], [7, 8]), ([5, 6], [9]), ([4], [3, 2])])
    assert sorted(seen) == [[4], [4, 3], [5, 6], [5, 6], [5, 6, 7]]


def test_wrong_pairs():
    with pytest.raises(UserError, match="pair 1 has an empty prompt"):
        logps_of(policy(), [([5], [6]), ([], [6])])
    with pytest.raises(UserError, match=r"pair 0 has 500 \+ 20 tokens, the model has 512 positions"):
        logps_of(policy(), [([5] * 500, [6] * 20)])


TEXTS = ["the rain is on the hill and in the air", "an onion", "there is a stone in the other hand", "Is this not the end?"]


def by_hand_kl(a, b, ids) -> torch.Tensor:
    with torch.no_grad():
        p, q = (m(torch.tensor([ids]), use_cache=False).logits[0, :-1].double().log_softmax(-1) for m in (a, b))
    return (p.exp() * (p - q)).sum(-1)


def test_kl_equals_the_sum_over_the_vocabulary_with_a_t_interval(monkeypatch):
    p, reference = policy(), make_llama(seed=1)
    ids = [p.tokenizer(text)["input_ids"] for text in TEXTS]
    per_text = [by_hand_kl(p.model, reference, row) for row in ids]
    total, counts = [float(k.sum()) for k in per_text], [len(k) for k in per_text]
    ratio = sum(total) / sum(counts)
    residual = np.array(total) - ratio * np.array(counts)
    half = stats.t.ppf(0.975, 3) * residual.std(ddof=1) / 2 / np.mean(counts)
    for elements in (1, 274 * 7, 2**25):
        monkeypatch.setattr(measuring, "CHUNK_ELEMENTS", elements)
        found = kl_from(p, reference, TEXTS, batch_tokens=40)
        assert found == pytest.approx({"kl_per_token": ratio, "low": max(0, ratio - half), "high": ratio + half, "tokens": sum(counts)}, rel=1e-4)
    assert kl_from(p, Policy(reference, p.tokenizer), [*ids]) == pytest.approx(found, rel=1e-5)
    assert kl_from(p, p.model, TEXTS)["kl_per_token"] == pytest.approx(0, abs=1e-7)
    other_way = sum(float(by_hand_kl(reference, p.model, row).sum()) for row in ids) / sum(counts)
    assert abs(other_way - ratio) > 0.01
    assert kl_from(Policy(reference, p.tokenizer), p.model, TEXTS)["kl_per_token"] == pytest.approx(other_way, rel=1e-4)


def test_kl_from_the_handle_switched_off():
    p = policy()
    start = make_llama()

    class Handle:
        @contextmanager
        def off(self):
            head = p.model.lm_head.weight
            kept = head.detach().clone()
            head.data.copy_(start.lm_head.weight)
            yield p.model
            head.data.copy_(kept)

    p.handle = Handle()
    assert kl_from(p, None, TEXTS)["kl_per_token"] == pytest.approx(0, abs=1e-7)
    with torch.no_grad():
        p.model.lm_head.weight += 0.1 * torch.randn_like(p.model.lm_head.weight)
    expected = kl_from(p, start, TEXTS)
    assert expected["kl_per_token"] > 0.01
    assert kl_from(p, None, TEXTS) == pytest.approx(expected, rel=1e-4)


def test_kl_from_wrong_input():
    p = policy()
    with pytest.raises(UserError, match="no reference"):
        kl_from(p, None, TEXTS)
    with pytest.raises(UserError, match="1 texts of two tokens or more"):
        kl_from(p, p.model, ["the rain", "a"])
    with pytest.raises(UserError, match="274 tokens in its vocabulary, the reference 300"):
        kl_from(p, make_llama(vocab=300), TEXTS)


@dataclass(frozen=True)
class Fake:
    name: str
    seen: list

    def __call__(self, policy):
        self.seen.append((policy.model.training, torch.is_grad_enabled()))
        return ProbeScores(self.name, "accuracy", "binary", True, (ItemScore("a", 1.0), ItemScore("b", 0.0)))


@dataclass(frozen=True)
class FakeDerived(Fake):
    def derived(self, scores):
        return (ProbeScores(f"{scores.probe}.more", "nll", "continuous", False, scores.items),)


def test_measure_runs_probes_in_eval_mode_and_puts_modes_back():
    p, seen, said, steps = policy(), [], [], []
    p.model.train()
    scores = measure(p, [Fake("one", seen), FakeDerived("two", seen)], say=said.append, progress=lambda *a: steps.append(a))
    assert seen == [(False, False), (False, False)] and p.model.training
    assert [s.probe for s in scores.probes] == ["one", "two", "two.more"] and scores.model == "tiny"
    assert steps == [("one", 0, 2), ("two", 1, 2), ("", 2, 2)]
    assert len(said) == 3 and said[0].startswith("one ") and "accuracy 0.500 over 2 items, room to lose 0.50 and to gain 0.50" in said[0]
    assert scores.seconds > 0 and 0.05 < scores.peak_memory_gib < 64
    with pytest.raises(UserError, match="two probes are called 'one'"):
        measure(p, [Fake("one", seen), Fake("one", seen)])


def test_headroom_warns_near_floor_and_ceiling():
    make = lambda right, of: ProbeScores("x", "accuracy", "binary", True, tuple(ItemScore(str(i), float(i < right)) for i in range(of)))  # noqa: E731
    assert headroom(make(1, 10)).endswith("too near the floor to show a loss")
    assert headroom(make(9, 10)).endswith("too near the ceiling to show a gain")
    assert headroom(make(3, 20)).endswith("to gain 0.85") and headroom(make(17, 20)).endswith("to gain 0.15")
    continuous = ProbeScores("y", "nll per token", "continuous", False, (ItemScore("a", math.pi),))
    assert headroom(continuous) == f"{'y':<24} nll per token 3.142 over 1 items"
