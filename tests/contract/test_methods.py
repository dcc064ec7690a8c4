"""Every objective of the package, found by walking it: its worked cases hold and notice every mutation of its file, and it keeps the contract."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tempering import index
from tempering.proof import contract, hand, mutants, shared

OBJECTIVES = index.methods("objective")
every_objective = pytest.mark.parametrize("entry", OBJECTIVES, ids=lambda entry: entry.name)


def test_there_is_something_to_walk() -> None:
    assert {"dpo", "nll"} <= {entry.name for entry in OBJECTIVES}


@every_objective
def test_its_cases_hold(entry: index.Entry) -> None:
    for case in mutants.cases_of(importlib.import_module(entry.module), Path(entry.path)):
        hand.check(case)


@every_objective
def test_its_cases_notice_every_mutation(entry: index.Entry) -> None:
    assert mutants.check(entry.path).mutants, "nothing in this file can be mutated"


@every_objective
def test_it_keeps_the_contract(entry: index.Entry) -> None:
    contract.check(mutants.cases_of(importlib.import_module(entry.module), Path(entry.path)))


def users_of(module: str) -> list[str]:
    """Methods that import a module, by themselves or through each other."""
    found: set[str] = set()
    while more := {e.module for e in OBJECTIVES if e.module not in found and ({module} | found) & set(e.uses)}:
        found |= more
    return sorted(found)


@pytest.mark.parametrize("path", sorted(Path(next(iter(OBJECTIVES)).path).parent.glob("_[a-z]*.py")), ids=lambda path: path.stem)
def test_what_methods_share_is_proved_by_their_cases(path: Path) -> None:
    module = f"tempering.methods.objectives.{path.stem}"
    assert shared.check(module, users_of(module)).mutants
