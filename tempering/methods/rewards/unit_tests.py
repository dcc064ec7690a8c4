"""Unit tests: whether the code in an answer passes the record's tests, run in the sandbox; nan where the record has none.

Which code counts, how it runs and how records hold tests: `_tested.py`.
"""

from __future__ import annotations

from typing import Literal

from tempering.methods.rewards._tested import Tested
from tempering.sandbox.verdict import Verdict

FAMILY = "checked"


class UnitTests(Tested):
    """Whether the code works."""

    kind: Literal["unit_tests"] = "unit_tests"
    partial: bool = False
    """Give the share of the tests that pass; otherwise 1 for all and 0 for fewer."""

    def worth(self, verdict: Verdict | None) -> float:
        """0 to 1."""
        if verdict is None:
            return 0.0
        return verdict.share if self.partial else float(all(verdict.passed))
