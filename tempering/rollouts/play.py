"""The live policy in an environment: many conversations at once through one decoder.

Each conversation is a coroutine that waits for its next turn or for its environment; whoever waits for a tool holds up nobody. Tokens are drawn with
noise that belongs to (seed, task's key, sample, turn, position), so in float32 a conversation does not depend on which others run beside it. The
samples of a task share what they have in common: the decoder computes it once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tempering.rollouts.rows import Seen
from tempering.rollouts.types import Environment, Trajectory, Turn
from tempering.sample import max_positions, models_of, stop_ids, text_of
from tempering.sampling.decoder import Decoder
from tempering.sampling.types import Request
from tempering.types import Policy, Record

if TYPE_CHECKING:
    import torch

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


def play(policy: Policy, environment: Environment, visits: Sequence[tuple[int, Record]], samples: int, how: How) -> list[list[Trajectory]]:
    """`samples` conversations about each task, in the order of the tasks.

    Args:
        visits: (a key that names its noise, the task).

    Raises:
        UserError: a task's prompt is too long for the model, or the template refuses it.
    """
    return asyncio.run(_Players(policy, how).all(environment, visits, samples))


class _Players:
    """Whoever plays asks here for a turn; one decoder answers all."""

    def __init__(self, policy: Policy, how: How) -> None:
        self.how, self.tokenizer = how, policy.tokenizer
        self.decoder = Decoder(policy, max_rows=how.concurrent, dtype=how.dtype)
        self.limit, self.ends = max_positions(models_of(policy)), stop_ids(policy)
        self.open: dict[int, _Open] = {}

    async def all(self, environment: Environment, visits: Sequence[tuple[int, Record]], samples: int) -> list[list[Trajectory]]:
        games = [self._play(environment, task, key, sample, samples) for key, task in visits for sample in range(samples)]
        done = asyncio.gather(*games)
        try:
            while not done.done():
                self._step()
                await asyncio.sleep(0 if self.open else IDLE)
        finally:
            done.cancel()
        played = done.result()
        return [list(played[i * samples : (i + 1) * samples]) for i in range(len(visits))]

    async def _play(self, environment: Environment, task: Record, key: int, sample: int, samples: int) -> Trajectory:
        state = await environment.reset(task)
        seen = Seen.opening(self.tokenizer, state)
        turns, rewards = list[Turn](), list[float]()
        while not state.done:
            turn = await self._turn(seen.ids, key, sample + samples * len(turns))
            state = await environment.step(state, turn.text)
            turns.append(turn)
            rewards.append(state.reward)
            if not state.done:
                seen = seen.then(self.tokenizer, turn.ids, state)
                if self.limit is not None and len(seen.ids) + self.how.max_new_tokens > self.limit:
                    break  # The model has no room for another turn.
        return Trajectory(task, tuple(turns), tuple(rewards), state)

    async def _turn(self, prompt: tuple[int, ...], key: int, sample: int) -> Turn:
        how = self.how
        ticket = self.decoder.submit(Request(prompt, how.max_new_tokens, how.temperature, seed=how.seed, key=key, sample=sample))
        self.open[ticket] = mine = _Open(asyncio.get_running_loop().create_future(), [], [])
        finished = await mine.future
        return Turn(prompt, tuple(mine.ids), tuple(mine.logps), text_of(self.tokenizer, mine.ids, (), self.ends), finished == "stop")

    def _step(self) -> None:
        for token in () if self.decoder.idle else self.decoder.step():
            mine = self.open[token.ticket]
            mine.ids.append(token.id)
            mine.logps.append(token.logp)
            if token.finished:
                del self.open[token.ticket]
                mine.future.set_result(token.finished)


@dataclass
class _Open:
    """A turn that is being sampled."""

    future: asyncio.Future[Any]
    ids: list[int]
    logps: list[float]
