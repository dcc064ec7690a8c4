"""The core's numbers are what they were when the stored results of replications/ were made, or `CORE_NUMERICS` was raised."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tempering.proof.digest import CORE_NUMERICS
from tests.golden import core


def same(new: Any, old: Any) -> bool:
    """Whether two lists agree: numbers to a relative 1e-4, all else exactly."""
    if any(isinstance(value, float) for value in [*new, *old]):
        return new == pytest.approx(old, rel=1e-4, abs=1e-6)
    return new == old


def test_the_cores_numbers_are_those_of_its_number() -> None:
    stored = json.loads(core.FILE.read_text())
    mend = "raise CORE_NUMERICS in tempering/proof/digest.py if the change is meant, then run python -m tests.golden.core"
    assert stored["core_numerics"] == CORE_NUMERICS, f"core.json is of another number: {mend}"
    found = core.values()
    assert found.keys() == stored["values"].keys(), "run python -m tests.golden.core"
    different = {name: (value, stored["values"][name]) for name, value in found.items() if not same(value, stored["values"][name])}
    assert not different, f"the core computes other numbers than before: {mend}"


@pytest.mark.parametrize(("new", "old"), [([1.0, 2.001], [1.0, 2.0]), ([3, 4], [3, 5]), (["a"], ["b"]), ([1.0], [1.0, 1.0])])
def test_a_difference_is_seen(new: list[Any], old: list[Any]) -> None:
    assert same(old, old)
    assert not same(new, old)
