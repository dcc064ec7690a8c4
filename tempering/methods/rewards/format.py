"""Format: 1 where an answer has the form that was asked for, else 0, whatever it says.

Tags: each of them once, opened and closed, one after another in this order, nothing else outside and something inside each: the template of
DeepSeek-R1 (arXiv 2501.12948, section 2.2.2). A further pattern can be asked for, which must match the whole answer. Patterns run with a time limit:
what takes longer, as some patterns do on texts written for that, counts as no match.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import regex
from pydantic import Field, field_validator

from tempering.config import Value
from tempering.types import Prompt, Record

if TYPE_CHECKING:
    import numpy as np

FAMILY = "checked"


class Format(Value):
    """Whether the answer has its form."""

    kind: Literal["format"] = "format"
    tags: tuple[str, ...] = ("think", "answer")
    """Names of the tags, in order; none: only the pattern counts."""
    pattern: str = ""
    """A regular expression that the whole answer must match."""
    seconds: float = Field(default=0.1, gt=0)
    """For the pattern, on one answer."""

    @field_validator("tags")
    @classmethod
    def _named(cls, tags: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [tag for tag in tags if not re.fullmatch(r"[\w-]+", tag)]:
            raise ValueError(f"a tag named {wrong[0]!r}; tags are words without brackets")
        return tags

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            regex.compile(pattern)
        except regex.error as error:
            raise ValueError(f"{pattern!r} is no regular expression ({error})") from None
        return pattern

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str], records: Sequence[Record] = ()) -> np.ndarray:
        """float64 [N]."""
        import numpy as np

        return np.array([self._tagged(answer) and self._matches(answer) for answer in answers], dtype=np.float64)

    def _tagged(self, answer: str) -> bool:
        rest = answer.strip()
        for tag in self.tags:
            opened, closed = f"<{tag}>", f"</{tag}>"
            if answer.count(opened) != 1 or answer.count(closed) != 1 or not rest.startswith(opened):
                return False
            inside, _, rest = rest.removeprefix(opened).partition(closed)
            if not inside.strip() or any(f"<{other}>" in inside or f"</{other}>" in inside for other in self.tags):
                return False
            rest = rest.lstrip()
        return not self.tags or not rest

    def _matches(self, answer: str) -> bool:
        try:
            return not self.pattern or regex.fullmatch(self.pattern, answer.strip(), regex.DOTALL, timeout=self.seconds) is not None
        except TimeoutError:
            return False
