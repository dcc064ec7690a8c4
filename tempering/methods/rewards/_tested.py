"""Rewards by unit tests: the code of an answer runs in the sandbox against the record's tests, and a subclass says what the verdict is worth.

The code is the last fenced block of the answer, or all of it where there is none; only one counts, so that offering many does not pay. Code and tests
run in two sandboxes (`sandbox/verdict.py`): the answer's process never sees what is expected, and nothing it prints, exits with, overrides or patches
is looked at. A test that calls nothing of the answer counts as failed.

Records in three forms: tests (a text or a list of texts, with an optional `setup`), MBPP (`test_list`, `test_setup_code`; Austin et al. 2021, arXiv
2108.07732), and HumanEval (`test` with a `check` function, `entry_point`, and the code that the prompt begins; Chen et al. 2021, arXiv 2107.03374).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tempering.config import Value
from tempering.errors import UserError
from tempering.methods.rewards import _checked
from tempering.sandbox.run import Limits, at_once
from tempering.sandbox.verdict import Verdict, judge
from tempering.types import Prompt, Record

if TYPE_CHECKING:
    import numpy as np

_FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_LONGEST = 100_000
"""Characters of code; more is no answer."""


class Tested(Value):
    """Abstract: a subclass says what a verdict is worth."""

    seconds: float = Field(default=6.0, gt=0)
    """For all tests of one answer."""
    memory_mib: int = Field(default=512, gt=0)
    """For the answer's process and all it starts."""
    at_once: int = Field(default=0, ge=0)
    """Answers tested at a time; 0: as many as there are cores."""
    isolation: Literal["namespaces", "limits"] = "namespaces"
    """"limits" takes the risk of running what models wrote where namespaces are not allowed (docs/rewards.md)."""

    def worth(self, verdict: Verdict | None) -> float:
        """Of a verdict; None where there is no code."""
        raise NotImplementedError

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str], records: Sequence[Record]) -> np.ndarray:
        """float64 [N]."""
        import numpy as np

        jobs = [(_checked.own(prompt, answer), record) for prompt, answer, record in zip(prompts, answers, records, strict=True)]
        # Samples of a group are often the same text: each is tested once.
        keys = [(answer, id(record)) for answer, record in jobs]
        once = dict(zip(keys, jobs, strict=True))
        found = dict(zip(once, at_once(self._score, list(once.values()), self.at_once), strict=True))
        return np.array([found[key] for key in keys], dtype=np.float64)

    def _score(self, job: tuple[str, Record]) -> float:
        return self.worth(self.verdict(*job)) if tests_of(job[1])[0] else float("nan")

    def verdict(self, answer: str, record: Record) -> Verdict | None:
        """What a record's tests say of the code of an answer, with its lines; None where there is no code, or no test."""
        tests, setup, entry, begun = tests_of(record)
        code = code_of(answer)
        if not tests or not code.strip() or len(code) > _LONGEST:
            return None
        before = begun if begun and not re.search(rf"^\s*def\s+{re.escape(entry)}\b", code, re.MULTILINE) else ""
        limits = Limits(wall=self.seconds, cpu=self.seconds, memory=self.memory_mib << 20)
        found = _judged(before + code, tests, setup=setup, entry=entry, limits=limits, isolation=self.isolation)
        return replace(found, lines=tuple(max(0, line - before.count("\n")) for line in found.lines))


_judged = lru_cache(maxsize=512)(judge)
"""A step may ask twice: for a reward, and for what it blames."""


def code_of(answer: str) -> str:
    """The last fenced block, closed or cut off; the whole text where there is none."""
    blocks = _FENCE.findall(answer)
    return blocks[-1] if blocks else answer


def tests_of(record: Record) -> tuple[tuple[str, ...], str, str, str]:
    """(tests, setup, the function that is tested, code that the answer goes on from) of a record; no tests where it has none."""
    tags = record.tags
    if "test" in tags and "entry_point" in tags:
        begun, entry = _text(record, "prompt") or "\n".join(m.content for m in record.prompt), _text(record, "entry_point")
        if not entry.isidentifier():
            raise UserError(f"{record.source or 'record'}: entry_point is {entry[:40]!r}; it is the name of a function")
        return (f"{_text(record, 'test')}\ncheck({entry})\n",), begun, entry, begun
    for tests, setup in (("tests", "setup"), ("test_list", "test_setup_code")):
        if tests in tags:
            found = tags[tests]
            listed = [found] if isinstance(found, str) else found
            if not isinstance(listed, list | tuple) or not all(isinstance(one, str) for one in listed):
                raise UserError(
                    f"{record.source or 'record'}: {tests} is no text or list of texts; each test is a piece of Python, such as an assert"
                )
            return tuple(listed), _text(record, setup), "", ""
    return (), "", "", ""


def _text(record: Record, name: str) -> str:
    found = record.tags.get(name) or ""
    if not isinstance(found, str):
        raise UserError(f"{record.source or 'record'}: {name} is no text; give Python")
    return found
