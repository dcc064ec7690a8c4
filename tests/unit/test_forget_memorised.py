"""Extraction likelihood and memorisation accuracy: by hand, at their ends, and against plain loops."""

from __future__ import annotations

import pytest
import torch

from tempering.errors import UserError
from tempering.forgetting.memorised import extraction_likelihood, memorisation_accuracy, ngrams, overlap
from tempering.types import Policy
from tests.conftest import make_llama, make_tokenizer

POLICY = Policy(make_llama(), make_tokenizer())


def greedy(prompt: list[int], size: int) -> list[int]:
    """The model's own continuation by the likeliest token each time, up to its end token."""
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) < len(prompt) + size and (len(ids) == len(prompt) or ids[-1] != POLICY.tokenizer.eos_token_id):
            ids.append(int(POLICY.model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_overlap_by_hand() -> None:
    assert ngrams([1, 2, 3], 2) == [(1, 2), (2, 3)] and ngrams([1], 2) == []
    # Of (1,2), (2,1), (1,2), (2,9) three occur in 2 1 2.
    assert overlap([1, 2, 1, 2, 9], [2, 1, 2], 2) == 3 / 4
    # The divisor of the published code: the rest's n-grams, of which there are two.
    assert overlap([1, 2, 1, 2, 9], [2, 1, 2], 2, "rest") == 3 / 2
    assert overlap([1, 2], [1, 2, 3, 4], 2) == 1 and overlap([1, 2], [1, 2, 3, 4], 2, "rest") == 1 / 3
    assert overlap([1], [1, 2], 2) == 0 == overlap([1, 2], [1], 2, "rest")


def test_what_the_model_says_by_itself_it_knows_by_heart() -> None:
    known = next(ids for start in range(4, 274) if len(ids := [start, *greedy([start], 14)]) == 15)
    assert memorisation_accuracy(POLICY, [known]) == [1.0] and extraction_likelihood(POLICY, [known], 4) == [1.0]
    wrong = [(x + 1) % 274 for x in known]
    assert extraction_likelihood(POLICY, [known, wrong], 4)[0] == 1.0


@pytest.mark.parametrize("n", [1, 3])
def test_both_are_the_definition(n: int) -> None:
    torch.manual_seed(0)
    half = [7, *greedy([7], 6)]
    sequences = [half + torch.randint(4, 274, (5,)).tolist(), torch.randint(4, 274, (9,)).tolist(), [11, *greedy([11], 5), 40, 41]]
    for ids, ma in zip(sequences, memorisation_accuracy(POLICY, sequences), strict=True):
        assert ma == sum(greedy(ids[:t], 1)[0] == ids[t] for t in range(1, len(ids))) / (len(ids) - 1)
    for every in (1, 2):
        for ids, el in zip(sequences, extraction_likelihood(POLICY, sequences, n, every=every), strict=True):
            places = range(1, len(ids) - n + 1, every)
            assert el == pytest.approx(sum(overlap(greedy(ids[:t], len(ids) - t), ids[t:], n) for t in places) / len(places), abs=1e-12)
    assert len(set(memorisation_accuracy(POLICY, sequences))) > 1


def test_wrong_input_is_one_sentence() -> None:
    with pytest.raises(UserError, match="sequence 1 has 3 tokens: EL_3 needs more than 3"):
        extraction_likelihood(POLICY, [[1, 2, 3, 4], [1, 2, 3]], 3)
    with pytest.raises(UserError, match="every=0: must be at least 1"):
        extraction_likelihood(POLICY, [[1, 2]], 1, every=0)
    with pytest.raises(UserError, match="sequence 0 has 1 tokens"):
        memorisation_accuracy(POLICY, [[1]])
