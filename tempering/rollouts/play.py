"""The live policy in an environment: many conversations at once through one decoder.

Each conversation is a coroutine that waits for its next turn or for its environment; whoever waits for a tool holds up nobody. Tokens are drawn with
noise that belongs to (seed, task's key, sample, turn, position), so in float32 a conversation does not depend on which others run beside it. The
samples of a task share what they have in common: the decoder computes it once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tempering.rollouts.rows import Seen
from tempering.rollouts.types import Environment, State, Trajectory, Turn
from tempering.sample import max_positions, models_of, stop_ids, text_of
from tempering.sampling.decoder import Decoder
from tempering.sampling.types import Request
from tempering.types import Policy, Record

if TYPE_CHECKING:
    import torch

    from tempering.rollouts.engine import Decodes

IDLE = 0.001
"""Seconds between two looks at whether a tool has answered, when nobody waits for the policy."""


@dataclass(frozen=True)
class How:
    """How turns are sampled."""

    max_new_tokens: int
    temperature: float = 1.0
    seed: int = 0
    concurrent: int = 64
    dtype: torch.dtype | None = None
    engine: Callable[[Policy, How], Decodes] | None = None
    """Who decodes; None is our own decoder."""


def play(policy: Policy, environment: Environment, visits: Sequence[tuple[int, Record]], samples: int, how: How) -> list[list[Trajectory]]:
    """`samples` conversations about each task, in the order of the tasks.

    Args:
        visits: (a key that names its noise, the task).

    Raises:
        UserError: a task's prompt is too long for the model, or the template refuses it.
    """
    groups, _ = go_on(policy, environment, opened(visits, samples), how)
    return list(groups.values())


@dataclass
class Begun:
    """A conversation that is open, between any two tokens. JSON holds it, and whatever the policy has become by then may go on with it."""

    key: int
    """Of its task's noise; conversations with the same are a group."""
    sample: int
    task: Record
    state: State | None = None
    """None before the environment has opened it."""
    seen: Seen = field(default_factory=lambda: Seen("", ()))
    turns: list[Turn] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    """Of the turn that is being sampled."""
    logps: list[float] = field(default_factory=list)
    ended: str = ""
    """How that turn ended, where the environment has not answered it yet."""

    def turn(self, text: str) -> Turn:
        """The turn that ended."""
        return Turn(self.seen.ids, tuple(self.ids), tuple(self.logps), text, self.ended == "stop")

    def trajectory(self) -> Trajectory:
        """What happened, once it is over."""
        assert self.state is not None
        return Trajectory(self.task, tuple(self.turns), tuple(self.rewards), self.state)


def opened(visits: Sequence[tuple[int, Record]], samples: int) -> list[Begun]:
    """Conversations about tasks before anything is said."""
    return [Begun(key, sample, task) for key, task in visits for sample in range(samples)]


def go_on(
    policy: Policy, environment: Environment, begun: Sequence[Begun], how: How, enough: int | None = None
) -> tuple[dict[int, list[Trajectory]], list[Begun]]:
    """Conversations from where they stand, until all are over, or all of `enough` groups; (groups by key, the conversations of all others).

    Where tools answer at their own pace, which groups are over first depends on it; else on the policy and the seed alone.

    Args:
        begun: changed in place.
        enough: groups that end the playing; of more that are over at that moment the earliest are given. None plays all.

    Raises:
        UserError: a task's prompt is too long for the model, or the template refuses it.
    """
    return asyncio.run(_Players(policy, how, begun).until(environment, enough))


class _Players:
    """Whoever plays asks here for a turn; one decoder answers all."""

    def __init__(self, policy: Policy, how: How, begun: Sequence[Begun]) -> None:
        self.how, self.tokenizer, self.games = how, policy.tokenizer, begun
        self.decoder: Decodes = how.engine(policy, how) if how.engine else Decoder(policy, max_rows=how.concurrent, dtype=how.dtype)
        self.limit, self.ends = max_positions(models_of(policy)), stop_ids(policy)
        self.samples = Counter(game.key for game in begun)
        self.missing, self.whole = Counter(self.samples), 0
        self.open: dict[int, tuple[Begun, asyncio.Future[Any]]] = {}

    async def until(self, environment: Environment, enough: int | None) -> tuple[dict[int, list[Trajectory]], list[Begun]]:
        done = asyncio.gather(*(self._play(environment, game) for game in self.games))
        try:
            while not done.done() and (enough is None or self.whole < enough):
                self._step()
                await asyncio.sleep(0 if self.open else IDLE)
            if done.done():
                done.result()  # What went wrong in a conversation is told.
        finally:
            done.cancel()
        keys = [key for key in self.samples if not self.missing[key]][:enough]
        groups: dict[int, list[Trajectory]] = {key: [] for key in keys}
        for game in self.games:
            if game.key in groups:
                groups[game.key].append(game.trajectory())
        return groups, [game for game in self.games if game.key not in groups]

    async def _play(self, environment: Environment, game: Begun) -> None:
        if game.state is None:
            game.state = await environment.reset(game.task)
            game.seen = Seen.opening(self.tokenizer, game.state)
        while not game.state.done and self._room(game):
            if not game.ended:
                await self._turn(game)
            turn = game.turn(text_of(self.tokenizer, game.ids, (), self.ends))
            state = await environment.step(game.state, turn.text)
            # Nothing is waited for from here on, so that nobody finds a conversation between two turns.
            game.turns.append(turn)
            game.rewards.append(state.reward)
            if not state.done:
                game.seen = game.seen.then(self.tokenizer, turn.ids, state)
            game.state, game.ids, game.logps, game.ended = state, [], [], ""
        self.missing[game.key] -= 1
        self.whole += not self.missing[game.key]

    def _room(self, game: Begun) -> bool:
        """Whether the model has positions for another turn; a first one that is too long is refused by the decoder, in words."""
        return not game.turns or self.limit is None or len(game.seen.ids) + self.how.max_new_tokens <= self.limit

    async def _turn(self, game: Begun) -> None:
        how, said = self.how, len(game.ids)
        request = Request(
            (*game.seen.ids, *game.ids), how.max_new_tokens - said, how.temperature,
            seed=how.seed, key=game.key, sample=game.sample + self.samples[game.key] * len(game.turns), begun=said,
        )  # fmt: skip
        future = asyncio.get_running_loop().create_future()
        self.open[self.decoder.submit(request)] = game, future
        await future

    def _step(self) -> None:
        for token in () if self.decoder.idle else self.decoder.step():
            game, future = self.open[token.ticket]
            game.ids.append(token.id)
            game.logps.append(token.logp)
            if token.finished:
                del self.open[token.ticket]
                game.ended = token.finished
                future.set_result(None)
