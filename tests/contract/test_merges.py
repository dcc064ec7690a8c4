"""Every method of the folder merges, found by walking it: its worked cases hold, and what is true of it by its definition."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tempering import index
from tempering.cases import MergeCase
from tempering.merges import Informed, Merge
from tempering.merging.run import draws
from tempering.methods.merges._largest import largest
from tempering.methods.merges.breadcrumbs import Breadcrumbs
from tempering.methods.merges.chat_vector import ChatVector
from tempering.methods.merges.dare_linear import DareLinear
from tempering.methods.merges.della_linear import DellaLinear
from tempering.methods.merges.fisher import Fisher
from tempering.methods.merges.karcher import Karcher
from tempering.methods.merges.linear import Linear
from tempering.methods.merges.model_stock import ModelStock
from tempering.methods.merges.multislerp import MultiSlerp
from tempering.methods.merges.nearswap import NearSwap
from tempering.methods.merges.nuslerp import NuSlerp
from tempering.methods.merges.regmean import RegMean
from tempering.methods.merges.slerp import Slerp
from tempering.methods.merges.task_arithmetic import TaskArithmetic
from tempering.methods.merges.ties import Ties
from tempering.proof import hand, mutants

MERGES = index.methods("merge")
every_merge = pytest.mark.parametrize("entry", MERGES, ids=lambda entry: entry.name)


def of(method: Merge | Informed, *tensors: Tensor, base: Tensor | None = None, seed: int = 0) -> Tensor:
    return called(method, base, [tensor.clone() for tensor in tensors], seed)


def called(method: Any, base: Tensor | None, tensors: list[Tensor], seed: int = 0) -> Tensor:
    """Every model's data say the same, where a method looks at data."""
    kind = getattr(method, "statistic", None)
    size = tensors[0].shape
    known = (
        [[torch.eye(size[-1]) if len(size) == 2 else None] * len(tensors)] if kind == "gram" else [[torch.ones(size)] * len(tensors)] if kind else []
    )
    return method(base, tensors, draws(seed, "w"), *known)


def some(count: int, *shape: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(*(shape or (6, 5))).to(dtype) for _ in range(count)]


def method_of(entry: index.Entry) -> Any:
    return index.load(entry)


def several(entry: index.Entry) -> tuple[Merge | Informed, int, bool]:
    """A value of the method, how many models it takes beside a base, and whether it takes one."""
    two = {"slerp": 1, "nearswap": 1, "arcee_fusion": 1, "passthrough": 1, "nuslerp": 2}
    cls = method_of(entry)
    return cls(), two.get(entry.name, 3), cls.base in ("first", "needed")


@every_merge
def test_its_cases_hold(entry: index.Entry) -> None:
    cases: Sequence[MergeCase] = importlib.import_module(entry.module).CASES
    assert entry.cases and all(type(case.method) is method_of(entry) for case in cases)
    for case in cases:
        hand.check(case)


GUARDED = {"arcee_fusion", "della_linear", "karcher", "model_stock", "nuslerp", "sce"}
"""More than two places of these guard against rounding or scale what is only compared; mergekit's numbers stand beside their cases (tests/peers)."""


@pytest.mark.parametrize("entry", [entry for entry in MERGES if entry.name not in GUARDED], ids=lambda entry: entry.name)
def test_its_cases_notice_every_mutation(entry: index.Entry) -> None:
    mutants.check(entry.path)


@every_merge
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shape_and_type_stay_and_the_base_is_not_written_over(entry: index.Entry, dtype: torch.dtype) -> None:
    method, count, based = several(entry)
    for shape in ((6, 5), (7,)):
        base = some(1, *shape, dtype=dtype)[0] if based else None
        kept = None if base is None else base.clone()
        found = called(method, base, some(count, *shape, dtype=dtype))
        assert found.shape == shape and found.dtype == dtype and found.isfinite().all()
        assert base is None or kept is None or torch.equal(base, kept)


@every_merge
def test_equal_models_give_that_model(entry: index.Entry) -> None:
    method, count, based = several(entry)
    if isinstance(method, TaskArithmetic | DareLinear | DellaLinear | Breadcrumbs):
        method = type(method)(weight=1 / count)
    (one,) = some(1)
    found = of(method, *[one] * count, base=one.clone() if based else None)
    assert torch.allclose(found, one, atol=1e-6)


def test_the_ends_of_an_interpolation_are_the_models_themselves() -> None:
    a, b = some(2)
    for method in (Slerp(t=0), NuSlerp(weight=(1, 0)), Linear(weight=(1, 0))):
        assert torch.equal(of(method, b, base=a) if isinstance(method, Slerp) else of(method, a, b), a)
    for method in (Slerp(t=1), NuSlerp(weight=(0, 1)), Linear(weight=(0, 1))):
        assert torch.equal(of(method, b, base=a) if isinstance(method, Slerp) else of(method, a, b), b)
    assert torch.equal(of(NearSwap(t=0), b, base=a), a) and torch.equal(of(NearSwap(t=100), b, base=a), b)


def test_slerp_keeps_the_norm_of_unit_vectors_and_a_line_does_not() -> None:
    a, b = (x / x.norm() for x in some(2))
    for t in (0.1, 0.5, 0.8):
        assert of(Slerp(t=t), b, base=a).norm() == pytest.approx(1, abs=1e-6)
        assert of(NuSlerp(weight=(1 - t, t)), a, b).norm() == pytest.approx(1, abs=1e-6)
        assert of(Linear(weight=(1 - t, t)), a, b).norm() < 0.999


def test_on_a_sphere_halfway_is_one_point_for_all_methods() -> None:
    a, b = (x / x.norm() for x in some(2))
    half = of(Slerp(), b, base=a)
    for method in (NuSlerp(), MultiSlerp(), Karcher()):
        assert torch.allclose(of(method, a, b), half, atol=1e-6)


def test_methods_that_thin_are_task_arithmetic_where_all_is_kept() -> None:
    base, a, b = some(3)
    plain = of(TaskArithmetic(weight=(1, 0.5)), a, b, base=base)
    for method in (DareLinear(weight=(1, 0.5)), DellaLinear(weight=(1, 0.5)), Breadcrumbs(weight=(1, 0.5))):
        assert torch.equal(of(method, a, b, base=base), plain)
    assert torch.equal(of(Ties(), a, base=base), of(TaskArithmetic(), a, base=base))
    negated = of(TaskArithmetic(weight=-1), a, base=base)
    assert torch.allclose(negated, 2 * base - a, atol=1e-6)


def test_an_average_commutes_with_a_permutation_of_neurons() -> None:
    a, b = some(2)
    order = torch.randperm(6)
    assert torch.equal(of(Linear(weight=(1, 3)), a, b)[order], of(Linear(weight=(1, 3)), a[order], b[order]))


def test_model_stock_is_the_average_of_models_that_agree() -> None:
    base, a = some(2)
    assert torch.allclose(of(ModelStock(), a, a, base=base), a, atol=1e-6)


def test_dropping_keeps_a_change_in_expectation() -> None:
    base = torch.zeros(40_000)
    found = of(DareLinear(density=0.25, rescale=False), torch.ones(40_000), base=base)
    assert set(found.tolist()) == {0.0, 1.0} and float(found.mean()) == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 40_000) ** 0.5)
    assert float(of(DareLinear(density=0.25), torch.ones(40_000), base=base).sum()) == pytest.approx(40_000, rel=1e-5)
    assert torch.equal(of(DareLinear(density=0.5), base + 1, base=base), of(DareLinear(density=0.5), base + 1, base=base))
    assert not torch.equal(of(DareLinear(density=0.5), base + 1, base=base), of(DareLinear(density=0.5), base + 1, base=base, seed=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("last", [False, True])
def test_the_largest_are_those_of_a_stable_sort(dtype: torch.dtype, last: bool) -> None:
    for scale in (1.0, 1e-6, 3e4):
        size = (torch.randint(0, 40, (997,)) * scale / 7).to(dtype).abs()
        for k in (0, 1, 5, 500, 996, 997, 2000):
            order = size.argsort(stable=True, descending=not last)
            taken = torch.zeros(997, dtype=torch.bool)
            if k:
                taken[order[-k:] if last else order[:k]] = True
            found = largest(size, k, last=last)
            assert torch.equal(found & (size > 0), taken & (size > 0))
            assert not (found & (size == 0)).any()


def test_a_chat_vector_of_nothing_leaves_every_bit() -> None:
    base, tuned, continued = some(3)
    assert torch.equal(of(ChatVector(weight=0), tuned, continued, base=base), tuned)
    assert torch.equal(of(ChatVector(), tuned, base, base=base), tuned)
    assert not torch.equal(base + (tuned - base), tuned), "the other order does not"
    assert torch.allclose(of(ChatVector(), tuned, continued, base=base), of(ChatVector(), continued, tuned, base=base), atol=1e-6)
    assert torch.allclose(of(ChatVector(), tuned, continued, base=base), of(TaskArithmetic(), tuned, continued, base=base), atol=1e-6)
    back = of(ChatVector(weight=-1), of(ChatVector(), tuned, continued, base=base), continued, base=base)
    assert torch.allclose(back, tuned, atol=1e-6)


def informed(method: Fisher | RegMean, tensors: list[Tensor], known: Sequence[Tensor | None]) -> Tensor:
    return method(None, [tensor.clone() for tensor in tensors], draws(0, "w"), known)


def test_equal_fisher_information_is_the_plain_average_and_equal_models_stay_to_the_bit() -> None:
    (sure, *models) = some(4)
    sure = sure.square()
    assert torch.allclose(informed(Fisher(weight=(1, 2, 3)), models, [sure] * 3), of(Linear(weight=(1, 2, 3)), *models), atol=1e-6)
    known = [some(1)[0].square() for _ in models]
    assert torch.equal(informed(Fisher(), [models[0]] * 3, known), models[0])
    assert torch.equal(informed(RegMean(), [models[0]] * 3, [x.T @ x for x in known]), models[0])


@pytest.mark.parametrize("rows", [40, 3])
def test_regmean_of_one_layer_is_least_squares_on_all_data(rows: int) -> None:
    """With three rows a model some directions are reached by no input: there the average stands."""
    tensors, inputs = some(2, 4, 9), some(2, rows, 9)
    x, y = torch.cat(inputs).double(), torch.cat([x @ w.T for x, w in zip(inputs, tensors, strict=True)]).double()
    mean = (tensors[0] + tensors[1]).double() / 2
    expected = mean + torch.linalg.lstsq(x, y - x @ mean.T, driver="gelsd").solution.T
    found = informed(RegMean(alpha=1), tensors, [x.double().T @ x.double() for x in inputs])
    assert torch.allclose(found.double(), expected, atol=1e-5)
    grams = [x.double().T @ x.double() for x in inputs]
    shrunk = [0.9 * gram + 0.1 * gram.diag().diag() for gram in grams]
    solved = sum(w.double() @ gram for w, gram in zip(tensors, shrunk, strict=True)) @ sum(shrunk).inverse()  # type: ignore[union-attr]
    assert torch.allclose(informed(RegMean(), tensors, grams).double(), solved, atol=1e-5)
    zero = informed(RegMean(alpha=0), tensors, [x.T @ x for x in inputs])
    sizes = [x.square().sum(0) for x in inputs]
    assert torch.allclose(zero, (tensors[0] * sizes[0] + tensors[1] * sizes[1]) / (sizes[0] + sizes[1]), atol=1e-5)
