"""Thinking budget: what an answer earns if thinking is cut off after some tokens and an answer is forced.

    answer = thought[: budget] + cue + the likeliest continuation        where the thought did not end by itself; else the answer as it is

Hou et al. 2025 (T1), arXiv 2501.11651 (S132), look at inference scaling so: reward by budget, with nothing learned or verified besides. What was said
until the cut stands as it was sampled, token by token; the cue is text. "Answer:" on a line of its own suits models that end their steps with it;
one that closes its thoughts by a tag wants that tag. Only environments with one turn.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any, Literal

from pydantic import Field

from tempering.errors import UserError
from tempering.items import ProbeValue, mean
from tempering.types import ItemScore, Policy, ProbeScores

CATALOGUE = ("S132",)


class ThinkingBudget(ProbeValue):
    """Reward of greedy answers that are forced after a budget of tokens."""

    kind: Literal["thinking_budget"] = "thinking_budget"
    name: str = "thinking_budget"
    environment: Any
    """A value of methods/environments."""
    budget: int = Field(default=128, gt=0)
    """Tokens of thinking."""
    cue: str = "\nAnswer:"
    """What is written behind a thought that was cut off; the policy goes on from there."""
    answer_tokens: int = Field(default=16, gt=0)
    """Tokens that a forced answer may have."""
    n: int = Field(default=100, gt=0)
    """Test tasks."""
    batch_size: int = Field(default=32, gt=0)

    def __call__(self, policy: Policy) -> ProbeScores:
        from tempering.rollouts.rows import Seen, encoded
        from tempering.rollouts.types import Trajectory
        from tempering.sample import sample

        env = self.environment
        tasks = env.tasks("test", self.n)
        states = [asyncio.run(env.reset(task)) for task in tasks]
        how: Any = {"temperature": 0.0, "batch_size": self.batch_size}
        prompts = [Seen.opening(policy.tokenizer, state).ids for state in states]
        thoughts = [turn for (turn,) in sample(policy, prompts, max_new_tokens=self.budget, **how)]
        cue = encoded(policy.tokenizer, self.cue)
        cut = [i for i, turn in enumerate(thoughts) if not turn.finished]
        rest = sample(policy, [(*prompts[i], *thoughts[i].ids, *cue) for i in cut], max_new_tokens=self.answer_tokens, **how)
        answers = {i: thoughts[i].text + self.cue + turn.text for i, (turn,) in zip(cut, rest, strict=True)}
        played, rewards = [], []
        for i, (task, state) in enumerate(zip(tasks, states, strict=True)):
            said = answers.get(i, thoughts[i].text)
            after = asyncio.run(env.step(state, said))
            if not after.done:
                raise UserError(f"environment {env.name}: it has several turns, and thinking budgets are for one answer to a task")
            turn = type(thoughts[i])(prompts[i], thoughts[i].ids, thoughts[i].logps, said, True)
            played.append(Trajectory(task, (turn,), (after.reward,), after))
            rewards.append(after.reward)
        items = [
            ItemScore(
                task.id, float(end) + reward, task.prompt[-1].content, one.answer, str(task.tags.get("answer", "")), {"forced": float(i in answers)}
            )
            for i, (task, one, end, reward) in enumerate(zip(tasks, played, env.judge(played), rewards, strict=True))
            if not math.isnan(end)
        ]
        if not items:
            raise UserError(f"environment {env.name}: none of its {len(tasks)} test tasks can be scored, or there are none")
        summary = {"forced": mean([item.extra["forced"] for item in items])}
        return ProbeScores(self.name, "reward", "binary" if env.binary else "continuous", True, tuple(items), self.side, summary)
