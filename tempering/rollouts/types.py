"""The vocabulary of reinforcement, torch-free.

A task is a `Record`: its prompt, and what a checker needs to know (answer, tests) as its response or its tags. An `Environment` opens a task and
answers the policy until the conversation is over; what happened is a `Trajectory`. A `Credit` turns what was earned into advantages of tokens.

Shape suffixes: N trajectories of a step, T sampled tokens of all trajectories laid end to end in their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from tempering.config import Value
from tempering.types import Episode, Message, Prompt, Record

if TYPE_CHECKING:
    import numpy as np

Turn = Episode
"""What the policy saw and said in one turn: token ids of both, the log-prob of each token it drew, the text."""


class Checked(Protocol):
    """A reward that looks at the task as well: its answer, its tests, its constraints. Values under methods/rewards that say `FAMILY = "checked"`."""

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str], records: Sequence[Record]) -> np.ndarray:
        """A prompt, an answer and the task of each -> float64 [N], higher is better. An answer that cannot be scored is nan: it takes no part."""
        ...


@dataclass(frozen=True)
class State:
    """Where a conversation stands. An environment never changes one; it makes the next."""

    messages: tuple[Message, ...]
    """All that was said so far; the policy speaks next, unless it is over."""
    done: bool = False
    reward: float = 0.0
    """What the last turn earned by itself."""
    memory: Mapping[str, Any] = field(default_factory=dict)
    """What the environment keeps for itself; JSON-able."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """Schemas for the chat template."""

    def said(self, answer: str, *more: Message, **changes: Any) -> State:
        """The state after the policy's answer and what is said to it then, with nothing earned unless `changes` say so."""
        return replace(self, messages=(*self.messages, Message("assistant", answer), *more), **{"reward": 0.0, **changes})


class Environment(Value):
    """Base of the values under methods/environments: where a policy acts. Many conversations are open at once, so all that differs between them is in
    the state."""

    portable: ClassVar[bool] = True
    """Whether a state is all that there is of a conversation, so that another process may go on with it."""

    @property
    def name(self) -> str:
        """What the ledger calls it."""
        raise NotImplementedError

    @property
    def binary(self) -> bool:
        """Whether a conversation earns 1 where the task was done and 0 where it was not."""
        return True

    def tasks(self, split: Literal["train", "test"], n: int | None = None) -> Sequence[Record]:
        """What a conversation can be about, at most `n`, in a fixed order; test tasks are none of the training tasks."""
        raise NotImplementedError

    async def reset(self, task: Record) -> State:
        """A conversation about a task, before the policy's first turn: its prompt, unless said otherwise."""
        return State(task.prompt, tools=task.tools)

    async def step(self, state: State, answer: str) -> State:
        """What becomes of it after the policy's answer: it is over, unless said otherwise. It may wait for a tool; others go on meanwhile."""
        return state.said(answer, done=True)

    def final(self, answer: str) -> str:
        """What of an answer counts where answers are compared with each other: all of it, unless said otherwise."""
        return answer.strip()

    def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
        """What the ends of these conversations earn beside their turns [N], all at once, so that a reward model sees batches; nan where nobody
        knows."""
        import numpy as np

        return np.zeros(len(played))

    def along(self, played: Sequence[Trajectory], tokenizer: Any) -> Sequence[np.ndarray] | None:
        """What single tokens of these conversations earn beside that [T of each]: pieces of an answer that a reward model scores, a line that fails;
        None where nothing is said of tokens. `tokenizer` is the policy's."""
        return None


@dataclass(frozen=True)
class Trajectory:
    """One conversation of the policy in an environment, from first to last turn."""

    task: Record
    turns: tuple[Turn, ...]
    rewards: tuple[float, ...]
    """What each turn earned."""
    state: State
    """The last one."""

    @property
    def answer(self) -> str:
        """What the policy said last."""
        return self.turns[-1].text

    @property
    def tokens(self) -> int:
        """How many it sampled."""
        return sum(len(turn.ids) for turn in self.turns)

    @property
    def finished(self) -> bool:
        """Whether every turn ended by itself, not by its budget of tokens."""
        return all(turn.finished for turn in self.turns)


@dataclass(frozen=True)
class Earned:
    """What a credit sees of a step."""

    reward_T: np.ndarray
    """float64; a turn's at its last token, the end's at the last of all, and what a token costs by itself (KL)."""
    trajectory_T: np.ndarray
    """int64, ascending from 0: whose token it is."""
    group_N: np.ndarray
    """int64: which task a trajectory is about."""
    value_T: np.ndarray | None = None
    """A critic's value of the state before the token, for a credit that asks for "value"."""
    greedy_N: np.ndarray | None = None
    """What the greedy answer to the same task earned, for one that asks for "greedy"."""
    along_T: np.ndarray | None = None
    """What of `reward_T` was said of single tokens (`Environment.along`); None where nothing was."""
    turn_T: np.ndarray | None = None
    """int64: the number of the token's turn in its conversation, from 0; None where each has one."""
    price_T: np.ndarray | None = None
    """What a divergence from the reference took from `reward_T`; None where it costs nothing."""

    def turns(self) -> tuple[np.ndarray, np.ndarray]:
        """(which turn of the step a token is of [T], from 0 in the order of the tokens; how many tokens each turn has [U])."""
        import numpy as np

        turn_T = np.zeros(len(self.reward_T), np.int64) if self.turn_T is None else self.turn_T
        begins_T = np.append(True, (np.diff(turn_T) != 0) | (np.diff(self.trajectory_T) != 0))
        unit_T = np.cumsum(begins_T) - 1
        return unit_T, np.bincount(unit_T)

    @property
    def score_N(self) -> np.ndarray:
        """The sum of each trajectory's rewards."""
        import numpy as np

        return np.bincount(self.trajectory_T, self.reward_T, len(self.group_N))


class Credit(Value):
    """Base of the values under methods/credits: called with what was earned, it gives columns of the batch [T] by name, "advantage" among them."""

    asks: ClassVar[frozenset[str]] = frozenset()
    """What it needs beside rewards: "value", "greedy"."""
    chooses: ClassVar[bool] = False
    """Whether it picks what is learned from: sequences whose advantages are all 0 are no part of the step."""

    def __call__(self, earned: Earned) -> Mapping[str, np.ndarray]:
        """The advantage of each sampled token, and what else an objective of its kind asks for."""
        raise NotImplementedError


def overlong(length_N: Sequence[int] | np.ndarray, longest: float, buffer: float) -> np.ndarray:
    """What answers lose for their length [N]: 0 up to longest - buffer, from there rising to 1 at `longest`, whatever lengths count.

    Yu et al. 2025 (DAPO), arXiv 2503.14476, equation 13.
    """
    import numpy as np

    return ((np.asarray(length_N, np.float64) - (longest - buffer)) / buffer).clip(0.0, 1.0)
