"""Reductions over segments and groups, by hand."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch

from tempering import reduce
from tempering.types import Batch


def batch(weight: list[list[float]], groups: list[int]) -> Batch:
    lengths = torch.tensor([len(w) for w in weight], dtype=torch.long)
    n = int(lengths.sum())
    return Batch(torch.zeros(n, dtype=torch.long), torch.repeat_interleave(torch.arange(len(weight)), lengths),
                 torch.tensor([x for w in weight for x in w]), torch.tensor(groups, dtype=torch.long))  # fmt: skip


B = batch([[0, 1, 2], [0, 0], [0, 1, 0]], [0, 0, 1])
X = torch.tensor([9.0, 1, 4, math.nan, math.nan, 9, 5, math.nan])


def test_sums_and_means_take_trailing_dimensions() -> None:
    assert reduce.segment_sum(X, B).tolist() == [9, 0, 5] and reduce.segment_mean(X, B).tolist() == [3, 0, 5]
    both = torch.stack([X, 2 * X], -1)
    assert reduce.segment_sum(both, B).tolist() == [[9, 18], [0, 0], [5, 10]]
    assert reduce.segment_mean(both, B).tolist() == [[3, 6], [0, 0], [5, 10]]


def test_first_and_last_scored_tokens_are_unweighted_and_get_all_the_gradient() -> None:
    x = torch.nan_to_num(X).requires_grad_()
    assert reduce.last(x, B).tolist() == [4, 0, 5] and reduce.first(x, B).tolist() == [1, 0, 5]
    assert reduce.last(torch.stack([x, 2 * x], -1), B).tolist() == [[4, 8], [0, 0], [5, 10]]
    reduce.last(x, B).sum().backward()
    assert x.grad.tolist() == [0, 0, 1, 0, 0, 0, 1, 0]


def test_nothing_at_all_still_has_a_gradient() -> None:
    """A process without rows must take part in the others' backward pass."""
    empty, x = batch([], []), torch.zeros(0, requires_grad=True)
    for found in (
        reduce.last(x, empty), reduce.first(x, empty), reduce.segment_mean(x, empty), reduce.group_log_softmax(x, empty), reduce.group_mean(x, empty),
        reduce.group_plackett_luce(x, x, empty),
    ):  # fmt: skip
        assert found.shape == (0,) and found.requires_grad
    wide = torch.zeros(0, 3, requires_grad=True)
    assert reduce.last(wide, empty).shape == (0, 3) and reduce.segment_mean(wide, empty).shape == (0, 3)


G = batch([[0, 1]] * 5, [7, 3, 7, 7, 3])
Y = torch.tensor([1.0, 2, 3, 2.5, -1])


def test_sums_means_and_soft_maxima_over_a_group() -> None:
    assert reduce.group_sum(Y, G).tolist() == [6.5, 1, 6.5, 6.5, 1]
    assert reduce.group_mean(Y, G).tolist() == pytest.approx([6.5 / 3, 0.5, 6.5 / 3, 6.5 / 3, 0.5])
    z7, z3 = (math.log(sum(math.exp(y) for y in ys)) for ys in ((1, 3, 2.5), (2, -1)))
    assert reduce.group_logsumexp(Y, G).tolist() == pytest.approx([z7, z3, z7, z7, z3])
    assert reduce.group_log_softmax(Y, G).tolist() == pytest.approx([1 - z7, 2 - z3, 3 - z7, 2.5 - z7, -1 - z3])
    assert torch.autograd.gradcheck(lambda y: reduce.group_log_softmax(y, G), Y.double().requires_grad_())


def test_places_in_a_group_break_ties_by_order() -> None:
    assert reduce.group_rank(Y, G).tolist() == [2, 0, 0, 1, 1]
    assert reduce.group_rank(torch.tensor([1.0, 1, 1, 2, 1]), G).tolist() == [1, 0, 2, 0, 1]
    assert reduce.group_rank(torch.zeros(0), batch([], [])).tolist() == []


def test_plackett_luce_is_a_distribution_over_rankings() -> None:
    one = batch([[0, 1]] * 3, [4, 4, 4])
    x = torch.tensor([0.3, -1.0, 2.0])
    chances = [float(reduce.group_plackett_luce(x, torch.tensor(by), one).sum().exp()) for by in permutations((1.0, 2.0, 3.0))]
    assert sum(chances) == pytest.approx(1.0) and len({round(c, 6) for c in chances}) == 6
    # Two groups: a pair is Bradley-Terry.
    found = reduce.group_plackett_luce(Y, torch.tensor([3.0, 1, 2, 1, 2]), G)
    assert float(found[4] + found[1]) == pytest.approx(-math.log1p(math.exp(3.0)))
    assert float(found[0]) == pytest.approx(1 - math.log(math.exp(1) + math.exp(3) + math.exp(2.5)))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9, 1.0])
def test_what_is_to_come_equals_a_loop(gamma: float) -> None:
    weight = [[0.0, 1.0, 0.5, 0.0, 2.0], [1.0], [0.0], [1.0] * 9]
    x = torch.randn(sum(map(len, weight)), dtype=torch.float64)
    x[0] = torch.nan
    segment_T = torch.repeat_interleave(torch.arange(4), torch.tensor([len(w) for w in weight]))
    batch = Batch(segment_T, segment_T, torch.tensor([w for row in weight for w in row]), torch.arange(4))
    expected, at = [], 0
    for row in weight:
        places = [i for i, w in enumerate(row) if w]
        terms = {i: row[i] * float(x[at + i]) for i in places}
        expected += [sum(gamma**n * terms[k] for n, k in enumerate(places[places.index(i) :])) if i in terms else 0.0 for i in range(len(row))]
        at += len(row)
    assert reduce.discounted(x, batch, gamma).tolist() == pytest.approx(expected, rel=1e-12)
    none = Batch(segment_T, segment_T, torch.zeros(len(segment_T)), torch.arange(4))
    assert not reduce.discounted(x, none, gamma).any()
