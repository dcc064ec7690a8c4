"""RLTF: what unit tests say of a program as a reward, told apart by how it fails; nan where the record has no tests.

    1 passes all;   -0.3 + 1.3 (share that passes) gives wrong answers only;   -0.6 fails, or does not end;   -1 is no program

Liu et al. 2023, "RLTF: Reinforcement Learning from Unit Test Feedback", arXiv 2307.04349 (S050): coarse and adaptive feedback, and with `fine` the
fine-grained one: every token of the line that an error tells of (a syntax error, the innermost line of a traceback) loses that much by itself,
every token of the code where it does not end, recurses too deep or errs behind its last line; wrong answers, and errors that tell of no line,
blame nothing. The program is never run where it has a syntax error: Python refuses the file. An error of the program in any test counts before wrong
answers. The line is what the answer's own process says, so a program could hide it, and spare itself `fine` at most. The paper's loss is `temper run
reinforce --credit fine_grained --env records --env.data D --env.reward rltf --env.reward.fine 0.3`, whose baseline is what the likeliest program
earns. Not here: the buffer of programs, and supervised steps in between. Which code counts, how it runs and how records hold tests: `_tested.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

from pydantic import Field

from tempering.methods.rewards import _checked
from tempering.methods.rewards._tested import Tested, code_of
from tempering.sandbox.run import at_once
from tempering.sandbox.verdict import Verdict
from tempering.types import Prompt, Record

FAMILY = "checked"
CATALOGUE = ("S050",)
_NO_PROGRAM = {"SyntaxError", "IndentationError", "TabError"}
_WRONG = {"AssertionError", "the test calls nothing of the answer"}
_WHOLE = {"it did not end in time", "RecursionError"}


class RLTF(Tested):
    """From -1 to 1, by how the code fails."""

    kind: Literal["rltf"] = "rltf"
    fine: float = Field(default=0.0, ge=0)
    """What each token of a line that fails loses (the paper: 0.3), for the credit fine_grained: others would add it up. 0 blames no line."""

    def worth(self, verdict: Verdict | None) -> float:
        """By the worst that happened."""
        if verdict is None:
            return -1.0
        kinds = {kind for kind, _ in _failures(verdict)}
        if kinds & _NO_PROGRAM:
            return -1.0
        return -0.6 if kinds - _WRONG else -0.3 + 1.3 * verdict.share

    def blamed(self, prompts: Sequence[Prompt], answers: Sequence[str], records: Sequence[Record]) -> list[tuple[int, int]]:
        """The characters of each answer that an error tells of, from and to; (0, 0) where none are."""
        jobs = [(answer, _checked.own(prompt, answer), record) for prompt, answer, record in zip(prompts, answers, records, strict=True)]
        return at_once(lambda job: _place(job[0], code_of(job[1]), self.verdict(*job[1:])), jobs, self.at_once)


def _failures(verdict: Verdict) -> list[tuple[str, int]]:
    """The kind of each test's failure, and its line."""
    lines = verdict.lines or (0,) * len(verdict.why)
    return [(why.partition(":")[0], line) for why, passed, line in zip(verdict.why, verdict.passed, lines, strict=True) if not passed]


def _place(answer: str, code: str, verdict: Verdict | None) -> tuple[int, int]:
    """Where in an answer the first error is."""
    found = [failure for failure in _failures(verdict) if failure[0] not in _WRONG] if verdict else []
    if not found:
        return 0, 0
    kind, line = found[0]
    begin = answer.rfind(code)
    ends = list(accumulate(map(len, code.splitlines(keepends=True))))
    if kind in _WHOLE or line > len(ends):
        return begin, begin + len(code)
    return (begin + (ends[line - 2] if line > 1 else 0), begin + ends[line - 1]) if line else (0, 0)
