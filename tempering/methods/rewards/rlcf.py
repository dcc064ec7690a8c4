"""RLCF: a program that its language's compiler refuses earns -1, any other one between 0 and 1, by how it compares with the record's program.

Jain et al. 2023, "Coarse-Tuning Models of Code with Reinforcement Learning Feedback", arXiv 2305.18341 (S003): the grounding function of a code
model's samples is feedback of the compiler, and of another language model that compares the sample with a reference. Here the compiler is Python's
parser, which runs nothing. Who compares is a saved reward model (`--env.reward.model`), asked for the answer behind the task and the reference,
through a sigmoid; without one it is the share of characters in common (2 M / T of Ratcliff and Obershelp). So every program that compiles is worth
more than every one that does not. The price of leaving the start model is `--rollouts.kl_cost`. What the paper pays a program that does not
compile, and how it asks its discriminator, was not looked up.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tempering.config import Value
from tempering.methods.rewards import _checked
from tempering.methods.rewards._tested import code_of
from tempering.types import Message, Prompt, Record, Reward

if TYPE_CHECKING:
    import numpy as np

FAMILY = "checked"
CATALOGUE = ("S003",)
_LONGEST = 10_000
"""Characters of a program; a longer one is none."""


class RLCF(Value):
    """-1, or from 0 to 1."""

    kind: Literal["rlcf"] = "rlcf"
    model: str = ""
    """A saved reward model that compares; by default characters are compared."""
    refused: float = Field(default=-1.0, lt=0)
    """What a program earns that does not compile."""

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str], records: Sequence[Record]) -> np.ndarray:
        """float64 [N]; nan where the record has no program."""
        import numpy as np

        codes = [code_of(_checked.own(prompt, answer)).strip() for prompt, answer in zip(prompts, answers, strict=True)]
        wanted = [_checked.right(record)[:1] for record in records]
        score_N = np.array([np.nan if not one else 0.0 if self.compiles(code) else self.refused for code, one in zip(codes, wanted, strict=True)])
        if fine := np.flatnonzero(score_N == 0).tolist():
            score_N[fine] = self._alike([prompts[i] for i in fine], [codes[i] for i in fine], [code_of(wanted[i][0]).strip() for i in fine])
        return score_N

    def _alike(self, prompts: Sequence[Prompt], codes: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """How each program compares with its reference, from 0 to 1."""
        import numpy as np

        if not self.model:
            return np.array([SequenceMatcher(None, code, one, autojunk=False).ratio() for code, one in zip(codes, references, strict=True)])
        asked: list[Prompt] = [
            (Message("user", f"{prompt if isinstance(prompt, str) else prompt[-1].content}\n\nReference:\n{one}\n\nProgram:"),)
            for prompt, one in zip(prompts, references, strict=True)
        ]
        return 0.5 * (1 + np.tanh(np.asarray(self._judge(asked, codes)) / 2))

    @cached_property
    def _judge(self) -> Reward:
        from tempering.methods.rewards._saved import named

        return named(self.model)

    @staticmethod
    def compiles(code: str) -> bool:
        """Whether Python's parser takes a text as a program of one statement or more; nothing of it is run."""
        if len(code) > _LONGEST:
            return False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return bool(ast.parse(code).body)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
