"""Environments of Gymnasium that speak or can be shown as text: `--env gymnasium --env.id FrozenLake-v1 --env.actions '["left", "down", ...]'`.

Gymnasium (Towers et al. 2024, arXiv 2407.17032) has `reset(seed)` and `step(action)`, which gives an observation, a reward, and whether it ended. An
observation that is text is shown as it stands; of others, what the environment draws as text (`render_mode="ansi"`) is shown, if it does, else its
values. The action is the policy's answer itself, or, with `actions`, the place in that list of the one word of it that the answer names last: an
answer that names none earns `invalid`, moves nothing and is told what there is. A task is a seed; the test's are none of the training's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tempering.methods.environments._live import Live, module
from tempering.rollouts.types import State, Trajectory
from tempering.types import Message, Record

if TYPE_CHECKING:
    import numpy as np

INSTALL = "--env gymnasium needs the package gymnasium: pip install gymnasium, and the environment's own package"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Gymnasium(Live):
    """One environment of Gymnasium."""

    kind: Literal["gymnasium"] = "gymnasium"
    id: str = Field(min_length=1)
    """As `gymnasium.make` takes it: FrozenLake-v1, or module:Name-v0."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of `gymnasium.make`."""
    actions: tuple[str, ...] = ()
    """A word for each action 0, 1, ...; none: the answer is the action."""
    says: str = ""
    """What the policy is told first, before each task; by default what actions there are."""
    turns: int = Field(default=20, ge=1)
    """Longest conversation."""
    games: int = Field(default=200, ge=2)
    """How many seeds there are to train on; a tenth as many, at least one, are for the test."""
    invalid: float = 0.0
    """What an answer without an action earns."""

    @property
    def name(self) -> str:
        return self.id.rpartition(":")[2]

    def tasks(self, split: Literal["train", "test"], n: int | None = None) -> Sequence[Record]:
        """Seeds, with what is seen first: every game is begun once for it."""
        seeds = range(self.games) if split == "train" else range(self.games, self.games + max(1, self.games // 10))
        return [self._task(seed) for seed in seeds[:n]]

    def _task(self, seed: int) -> Record:
        game, prompt = self._begun(seed)
        game.close()
        return Record(prompt, (), id=str(seed), source=f"{self.name}:{seed}", tags={"seed": seed})

    @property
    def _told(self) -> str:
        return self.says or (f"Answer with one of: {', '.join(self.actions)}." if self.actions else "Answer with what you do.")

    @cached_property
    def _package(self) -> Any:
        return module("gymnasium", INSTALL)

    def _made(self) -> Any:
        """A new game; drawn as text where it can be."""
        with self._theirs("making it"):
            try:
                return self._package.make(self.id, **{"render_mode": "ansi", **self.options})
            except Exception:
                # Not every game draws text, and each refuses in its own way; what else is wrong is wrong without it too.
                return self._package.make(self.id, **self.options)

    def _begun(self, seed: int) -> tuple[Any, tuple[Message, ...]]:
        """A game, and what the policy is told of it."""
        game = self._made()
        with self._theirs(f"beginning with seed {seed}"):
            observation, _ = game.reset(seed=seed)
            return game, (Message("user", f"{self._told}\n\n{self._seen(game, observation)}"),)

    def _seen(self, game: Any, observation: Any) -> str:
        """What there is to see, as text."""
        drawn = game.render() if not isinstance(observation, str) and getattr(game, "render_mode", None) == "ansi" else observation
        return _COLOUR.sub("", str(drawn)).strip()

    def action(self, answer: str) -> Any | None:
        """What an answer does; None where it names no action."""
        if not self.actions:
            return answer.strip()
        places = {word.lower(): place for place, word in enumerate(self.actions)}
        named = re.findall("|".join(rf"\b{re.escape(word)}\b" for word in sorted(places, key=len, reverse=True)), answer.lower())
        return places[named[-1]] if named else None

    async def reset(self, task: Record) -> State:
        """The game as it begins."""
        game, prompt = self._begun(int(task.tags["seed"]))
        return State(prompt, memory={**self._opened(game), "left": self.turns})

    async def step(self, state: State, answer: str) -> State:
        """What is seen after the action, and what it earned."""
        game, left = self._open[state.memory["open"]], state.memory["left"] - 1
        memory, action = {**state.memory, "left": left}, self.action(answer)
        if action is None:
            reward, over, shown = self.invalid, False, f"That is none of: {', '.join(self.actions)}."
        else:
            with self._theirs(f"doing {answer[:40]!r}"):
                observation, reward, ended, cut, _ = game.step(action)
                over, shown = bool(ended or cut), self._seen(game, observation)
        if over or not left:
            self._open.pop(state.memory["open"]).close()
            return state.said(answer, done=True, reward=float(reward), memory=memory)
        return state.said(answer, Message("user", shown), reward=float(reward), memory=memory)

    def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
        """Nothing beside the turns; games that nobody goes on with are closed."""
        import numpy as np

        for _, game in self._left(played):
            game.close()
        return np.zeros(len(played))
