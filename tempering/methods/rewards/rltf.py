"""RLTF: what unit tests say of a program as a reward, told apart by how it fails; nan where the record has no tests.

    1 passes all;   -0.3 + 1.3 (share that passes) gives wrong answers only;   -0.6 fails, or does not end;   -1 is no program

Liu et al. 2023, "RLTF: Reinforcement Learning from Unit Test Feedback" (S050): the coarse and the adaptive feedback. The program is never run where
it has a syntax error: Python refuses the file. An error of the program in any test counts before wrong answers. The paper's loss is `temper run
reinforce --credit greedy_baseline --env records --env.data D --env.reward rltf`, whose baseline is what the likeliest program earns. Not here: the
fine-grained feedback (a further -0.3 on the tokens of the line that an error names), the buffer of programs, and supervised steps in between. Which
code counts, how it runs and how records hold tests: `_tested.py`.
"""

from __future__ import annotations

from typing import Literal

from tempering.methods.rewards._tested import Tested
from tempering.sandbox.verdict import Verdict

FAMILY = "checked"


class RLTF(Tested):
    """From -1 to 1, by how the code fails."""

    kind: Literal["rltf"] = "rltf"

    def worth(self, verdict: Verdict | None) -> float:
        """By the worst that happened."""
        if verdict is None:
            return -1.0
        kinds = {why.partition(":")[0] for why, passed in zip(verdict.why, verdict.passed, strict=True) if not passed}
        if kinds & {"SyntaxError", "IndentationError", "TabError"}:
            return -1.0
        return -0.6 if kinds - {"AssertionError", "the test calls nothing of the answer"} else -0.3 + 1.3 * verdict.share
