"""ECO: the gate, its threshold, the corrupted model, the search for the noise; and that unflagged prompts are answered to the bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tempering.errors import UserError
from tempering.forgetting.corrupt import common_header, corrupted, guarded, learn_gate, pair_of, probabilities, search, slope, threshold
from tempering.measure import logps_of
from tempering.methods.decodes.prompt_gate import PromptGate
from tempering.models import load, save
from tempering.sample import sample
from tempering.types import Policy, Segment
from tests.conftest import make_llama, make_tokenizer


def segment(prompt: list[int], answer: list[int]) -> Segment:
    return Segment(np.array([*prompt, *answer], dtype=np.int32), np.array([0.0] * len(prompt) + [1.0] * len(answer), dtype=np.float32))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_gate_by_hand() -> None:
    gate = PromptGate((0.5, -1.0, 2.0), bias=0.25)
    # Each token once, however often; padding and tokens beyond the weights count nothing.
    rows = torch.tensor([[-1, 0, 0, 2], [1, 2, 7, 9], [7, 7, 7, 7]])
    assert gate.probability(rows).tolist() == pytest.approx([sigmoid(2.75), sigmoid(1.25), sigmoid(0.25)])


def test_the_gate_reads_the_prompt_and_not_the_answer() -> None:
    gate = PromptGate((0.5, -1.0, 2.0), header=(8, 9))
    rows = torch.tensor([[-1, 0, 8, 9, 2], [0, 8, 9, 1, 7], [0, 8, 9, 8, 9], [0, 1, 2, 8, 7]])
    # After the last header nothing counts; without one everything does.
    assert gate.probability(rows).tolist() == pytest.approx([sigmoid(0.5), sigmoid(0.5), sigmoid(0.5), sigmoid(1.5)])
    assert gate.probability(torch.tensor([[2]])).tolist() == pytest.approx([sigmoid(2.0)]), "shorter than a header"


def test_a_flagged_row_is_answered_by_the_other_model() -> None:
    gate = PromptGate((0.0, 3.0), threshold=sigmoid(3.0) - 1e-6)
    logits = {"policy": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "corrupted": torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])}
    assert gate(torch.tensor([[0, 0], [0, 1]]), logits).tolist() == [[1.0, 2.0], [-3.0, -4.0]]
    with pytest.raises(UserError, match="PromptGate: weights are numbers"):
        PromptGate(("a",))  # type: ignore[arg-type]


def test_headers_are_what_all_prompts_end_with() -> None:
    assert common_header([segment([5, 6, 1, 2], [9]), segment([7, 1, 2], [9]), segment([4, 1, 2], [8])]) == (1, 2)
    assert common_header([segment([3], [5, 6]), segment([3], [7])]) == (), "a first token that all texts share is no header"
    assert common_header([segment([5, 1], [2]), segment([5, 1], [2])]) == ()
    assert pair_of(segment([5, 1], [2, 3])) == ([5, 1], [2, 3])


def test_the_classifier_finds_the_tokens_that_tell() -> None:
    going = [segment([name, 20 + i % 3, 1, 2], [9]) for i, name in enumerate([10, 11, 10, 11])]
    others = [segment([name, 20 + i % 3, 1, 2], [10]) for i, name in enumerate([12, 13, 14, 15, 16, 17])]
    gate = learn_gate(going, others, vocabulary=30)
    assert gate.header == (1, 2) and len(gate.weights) == 30
    assert min(gate.weights[10], gate.weights[11]) > max(abs(w) for i, w in enumerate(gate.weights) if i not in range(10, 18))
    assert min(probabilities(gate, going)) > 0.9 and max(probabilities(gate, others)) < 0.1


def test_the_threshold_bounds_false_alarms() -> None:
    calm = [0.1, 0.5, 0.2, 0.4, 0.3, 0.7, 0.9, 0.6, 0.8]
    # Ten places between nine numbers: at most a fifth above the eighth smallest.
    at = threshold(calm, 0.2)
    assert at > 0.8 and at == pytest.approx(0.8) and sum(p >= at for p in calm) == 1
    assert threshold(calm, 0.05) == 2.0, "nine prompts cannot show one in twenty"


def test_noise_moves_what_it_is_told_to() -> None:
    model: Any = make_llama(tie_word_embeddings=True)
    before = model.get_input_embeddings().weight.detach().clone()
    other = corrupted(model, 2.0, dims=3, seed=1, spare=[4])
    moved = other.get_input_embeddings().weight - before
    assert bool((moved[:, 3:] == 0).all()) and bool((moved[4] == 0).all()) and bool((moved[5, :3] != 0).all())
    assert float(moved[5:, :3].std()) == pytest.approx(2 * float(before.std()), rel=0.1)
    assert torch.equal(other.get_output_embeddings().weight, before), "the head keeps the table"
    assert torch.equal(model.get_input_embeddings().weight, before), "the model itself does not move"
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(corrupted(model, 0.0)(ids).logits, model(ids).logits)


def test_the_estimate_is_the_derivative_of_a_quadratic() -> None:
    def f(x: float) -> float:
        return 3 * x * x - 4 * x + 1

    assert slope(f, 1.5, 0.5) == pytest.approx(5.0, abs=1e-12)
    assert slope(lambda x: 2 * x + 1, 7.0, 0.25) == pytest.approx(2.0, abs=1e-12)
    assert search(f, 1.5, rate=0.1, width=0.25, steps=1) == pytest.approx(1.0)
    assert search(lambda x: x, 1.0, rate=9.0, width=0.25, steps=3) == 0.25, "no noise below 0 is asked for"


def test_unflagged_prompts_are_answered_to_the_bit_and_the_chain_is_saved(tmp_path: Path) -> None:
    start = load(save(Policy(make_llama(tie_word_embeddings=True), make_tokenizer(), name="start"), tmp_path / "start"), say=lambda _: None)
    weights = {name: p.clone() for name, p in start.model.state_dict().items()}
    gate = PromptGate(tuple(10.0 if i == 100 else -1.0 for i in range(274)), header=(30, 31))
    policy = guarded(start, gate, 3.0)
    pairs = [([100, 50, 30, 31], [60, 61, 62]), ([51, 50, 30, 31], [100, 61, 62])]
    plain, now, still = (logps_of(p, pairs) for p in (start, policy, guarded(start, gate, 0.0)))
    assert not torch.allclose(plain[0], now[0], atol=1e-2), "flagged"
    assert torch.equal(plain[1], now[1]), "not flagged, whatever the answer says"
    assert all(torch.equal(a, b) for a, b in zip(plain, still, strict=True)), "without noise nothing changes"
    assert all(torch.equal(p, weights[name]) for name, p in policy.model.state_dict().items())
    save(policy, tmp_path / "out")
    again = load(tmp_path / "out", say=lambda _: None)
    assert again.decode == policy.decode
    assert all(torch.equal(a, b) for a, b in zip(now, logps_of(again, pairs), strict=True))
    prompts = [prompt for prompt, _ in pairs]
    assert sample(again, prompts, max_new_tokens=4, temperature=0.0) == sample(policy, prompts, max_new_tokens=4, temperature=0.0)
