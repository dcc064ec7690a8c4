"""Episode reward: what the policy earns in an environment on tasks that it was not trained on, each played once with its likeliest tokens.

The score of a task is the sum of what its turns and its end earned. Where an environment pays 1 for a task that was done and 0 else, it is a share.
A task that nobody can score, whoever answers, is left out.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field

from tempering.errors import UserError
from tempering.items import ProbeValue, mean
from tempering.types import ItemScore, Policy, ProbeScores


class EpisodeReward(ProbeValue):
    """Reward of greedy play."""

    kind: Literal["episode_reward"] = "episode_reward"
    name: str = "episode_reward"
    environment: Any
    """A value of methods/environments."""
    n: int = Field(default=100, gt=0)
    """Test tasks."""
    max_new_tokens: int = Field(default=128, gt=0)
    """Of one turn."""
    batch_size: int = Field(default=32, gt=0)

    def __call__(self, policy: Policy) -> ProbeScores:
        from tempering.rollouts.play import How, play

        tasks = self.environment.tasks("test", self.n)
        if not tasks:
            raise UserError(f"environment {self.environment.name}: it has no test tasks to measure with")
        how = How(self.max_new_tokens, 0.0, concurrent=self.batch_size)
        played = [trajectory for (trajectory,) in play(policy, self.environment, list(enumerate(tasks)), 1, how)]
        items = []
        for task, trajectory, end in zip(tasks, played, self.environment.judge(played), strict=True):
            if math.isnan(end):
                continue
            extra = {"tokens": float(trajectory.tokens), "turns": float(len(trajectory.turns)), "finished": float(trajectory.finished)}
            said = "\n".join(message.content for message in trajectory.state.messages[len(task.prompt) :])
            score = float(end) + sum(trajectory.rewards)
            items.append(ItemScore(task.id, score, task.prompt[-1].content, said, str(task.tags.get("answer", "")), extra))
        if not items:
            raise UserError(
                f"environment {self.environment.name}: none of its {len(tasks)} test tasks can be scored: they lack what the reward looks for "
                "(the right answer, tests, instructions); give data that has it, or another reward"
            )
        summary = {name: mean([item.extra[name] for item in items]) for name in ("tokens", "turns", "finished")}
        binary = self.environment.binary
        return ProbeScores(self.name, "reward", "binary" if binary else "continuous", True, tuple(items), self.side, summary)
