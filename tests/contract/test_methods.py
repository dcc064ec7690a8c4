"""Every objective of the package, found by walking it: its worked cases hold and notice every mutation of its file, and it keeps the contract."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tempering import index
from tempering.proof import contract, hand, mutants
from tests.toy import toy_llama

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
    contract.check(mutants.cases_of(importlib.import_module(entry.module), Path(entry.path)), toy_llama(hidden=16, layers=1))
