"""Solve, verify, solve again: sums that are answered, checked by whoever answered them, and answered anew where the check says no.

    solve -> "Is that right?" -> verdict -> over where it is yes; else "Try again." -> solve -> ...        at most `tries` answers

S2R (Ma et al. 2025, arXiv 2502.12853, S127) teaches a model to go on like this by itself within one answer, first from demonstrations, then by
reinforcement. Here each piece is a turn, and the environment asks for the next, so that it is plain which tokens are which piece. With `pays`
"outcome" the last answer earns 1 or 0; with "process" each turn is paid: an answer 1 where it is right and -1 where not, a verdict 1 where it is
true, -1 where it is not, 0 where there is none, as in the paper. The tasks' responses are demonstrations of the whole conversation, for `temper run
reft`: in `slips` of them the first answer is a bare wrong number, is said to be wrong, and the worked answer follows; in the others the worked
answer comes first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tempering.methods.environments._numbers import Numbers
from tempering.rollouts.types import State, Trajectory
from tempering.types import Message, Record, Response
from tempering.worlds.arithmetic import Arithmetic as World
from tempering.worlds.arithmetic import last_number
from tempering.worlds.base import rng

if TYPE_CHECKING:
    import numpy as np

CATALOGUE = ("S127",)
CHECK, AGAIN = "Is that right?", "Try again."
_VERDICT = re.compile(r"[a-z]+")


def _verdict(text: str) -> bool | None:
    """What a check says of the answer by its first word: yes, no, or nothing."""
    first = _VERDICT.search(text.lower())
    return {"yes": True, "no": False}.get(first.group()) if first else None


class Verify(Numbers):
    """Answers that are checked by the policy itself."""

    kind: Literal["verify"] = "verify"
    operations: tuple[Literal["add", "subtract", "multiply"], ...] = ("add", "subtract")
    """What is asked for."""
    digits: int = Field(default=2, ge=1, le=12)
    """Of the larger number."""
    tries: int = Field(default=2, ge=1)
    """Most answers; the last one is not checked."""
    pays: Literal["outcome", "process"] = "outcome"
    """Whether the last answer earns something, or every turn."""
    slips: float = Field(default=0.5, ge=0, le=1)
    """Share of demonstrations whose first answer is wrong."""

    @property
    def world(self) -> World:
        return World(self.operations, self.digits, steps=True)

    @property
    def name(self) -> str:
        return f"verify, {self.world.name}"

    @property
    def binary(self) -> bool:
        return self.pays == "outcome" and super().binary

    def tasks(self, split: Literal["train", "test"], n: int | None = None) -> Sequence[Record]:
        """Questions with the whole conversation as their response."""
        return tuple(replace(task, responses=(self._shown(task),)) for task in super().tasks(split, n))

    def _shown(self, task: Record) -> Response:
        """Slip, "No.", worked answer; or worked answer, "Yes."."""
        source, (worked,) = rng("verify", task.id), task.responses[0].messages
        if self.tries == 1:
            return Response((worked,))
        if source.random() >= self.slips:
            return Response((worked, Message("user", CHECK), Message("assistant", "Yes.")))
        wrong = str(int(task.tags["answer"]) + source.choice([-10, -2, -1, 1, 2, 10]))
        told = (Message("assistant", wrong), Message("user", CHECK), Message("assistant", "No."), Message("user", AGAIN))
        return Response((*told, worked))

    async def reset(self, task: Record) -> State:
        """The question; the right answer stays with the environment."""
        return State(task.prompt, memory={"answer": int(task.tags["answer"]), "said": [], "verdicts": []})

    async def step(self, state: State, answer: str) -> State:
        """The next piece: after an answer a check, after a check that does not say yes another answer."""
        right, said, verdicts = state.memory["answer"], state.memory["said"], state.memory["verdicts"]
        if len(verdicts) < len(said):
            found = _verdict(answer)
            paid = 0.0 if found is None else 1.0 if found == (said[-1] == right) else -1.0
            memory, done, asked = {"verdicts": [*verdicts, found]}, found is True, AGAIN
        else:
            number = last_number(answer)
            paid = 1.0 if number == right else -1.0
            memory, done, asked = {"said": [*said, number]}, len(said) + 1 == self.tries, CHECK
        paid = paid if self.pays == "process" else 0.0
        after = {"reward": paid, "memory": {**state.memory, **memory}}
        return state.said(answer, done=True, **after) if done else state.said(answer, Message("user", asked), **after)

    def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
        """What the last answer earns, where the outcome is paid."""
        import numpy as np

        if self.pays == "process":
            return np.zeros(len(played))
        return np.array([self._paid(one.state.memory["said"][-1], one.state.memory["answer"]) for one in played])
