"""Stored results of claims: whole, judged by a rule that stood before them, and about the code that is here."""

from __future__ import annotations

import ast
import datetime
import math
from pathlib import Path

import pytest

from tempering.proof import claims, history, replicate
from tempering.proof.claims import Result
from tempering.proof.digest import CORE_NUMERICS, files_of
from tests.conftest import ROOT

RESULTS = sorted((ROOT / "replications").glob("*.json"))
results = pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)


@pytest.mark.parametrize("name", claims.names())
def test_a_claim_can_be_read(name: str) -> None:
    path = claims.path_of(name)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{path.name}: say in words what is claimed, and where"
    assert any(isinstance(node, ast.FunctionDef) and node.name == "arm" for node in tree.body), f"{path.name}: no function arm(seed, arm, scale)"
    claims.read(path)
    assert path in files_of(name)


@results
def test_a_result_is_of_its_claim(file: Path) -> None:
    result, claim = replicate.read_result(file), claims.read(claims.path_of(file.stem))
    for field in ("method", "catalogue", "title", "claim", "baseline", "metric"):
        assert getattr(result, field) == getattr(claim, field), f"{file.name}: {field}"
    assert result.rule == claim.rule(), f"{file.name} was judged by another rule"
    assert result.command.split()[:3] == ["temper", "replicate", file.stem]


@results
def test_a_verdict_follows_from_its_seeds(file: Path) -> None:
    result, claim = replicate.read_result(file), claims.read(claims.path_of(file.stem))
    found = claims.judge(claim, result.seeds)
    assert len({seed.seed for seed in result.seeds}) == len(result.seeds) >= claims.MIN_SEEDS
    assert (found.verdict, found.reason) == (result.verdict, result.reason)
    assert [found.effect, *found.interval] == pytest.approx([result.effect, *result.interval], rel=1e-9)


@results
def test_a_result_is_about_the_files_that_are_here(file: Path) -> None:
    result = replicate.read_result(file)
    assert result.core_numerics <= CORE_NUMERICS
    note = replicate.standing(file.stem, result)
    assert note in ("", "stale"), f"{note}: run `temper replicate {file.stem}` again and commit its result"


@results
def test_the_rule_stood_before_the_result(file: Path) -> None:
    if not history.in_checkout():
        pytest.skip("the order of commits cannot be seen: this is no git checkout")
    if history.git("rev-parse", "--is-shallow-repository") != "false":
        pytest.skip("the order of commits cannot be seen: this clone is shallow")
    result: Result = replicate.read_result(file)
    assert not history.unproven(file.stem, result)


def test_a_claim_of_the_day_runs() -> None:
    """Another one each day, in its quick form, one seed."""
    name = claims.names()[datetime.date.today().toordinal() % len(claims.names())]
    claim = claims.read(claims.path_of(name))
    arms = [replicate.run_arm(name, 0, arm, quick=True) for arm in claims.ARMS]
    (seed,) = replicate.paired(claim, arms)
    assert math.isfinite(seed.baseline) and math.isfinite(seed.method)
    assert [replicate.run_arm(name, 0, arm, quick=True).reused for arm in claims.ARMS] == [True, True]
