"""Pass at k: what the best of k sampled attempts at a task earns, and what the answer earns that most attempts agree on.

    pass@k = 1 - C(n - c, k) / C(n, k)        of n attempts, c right

The unbiased estimate of Chen et al. 2021, arXiv 2107.03374, equation 1. It is the mean of the best over all subsets of k, which is what is computed,
so rewards need not be 0 and 1. Majority: the mean score of the attempts whose final answer is the most frequent one of all n (maj@n; of equally
frequent ones the mean). Reinforcement may raise pass@1 by giving up answers that are right now and then: then pass@k falls (S019, Havrilla et al.
2024, arXiv 2403.04642, measure both).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from tempering.items import ProbeValue, mean
from tempering.types import ItemScore, Policy, ProbeScores

if TYPE_CHECKING:
    import numpy as np


def majority(answers: Sequence[str], score_N: Sequence[float] | np.ndarray) -> float:
    """What the most frequent of N answers earns: the mean over those who gave it, and over equally frequent ones."""
    count = Counter(answers)
    most = [answer for answer in count if count[answer] == max(count.values())]
    return mean([mean([float(s) for a, s in zip(answers, score_N, strict=True) if a == answer]) for answer in most])


class PassAtK(ProbeValue):
    """Reward of the best of k attempts."""

    kind: Literal["pass_at_k"] = "pass_at_k"
    name: str = "pass_at_k"
    environment: Any
    """A value of methods/environments."""
    n: int = Field(default=100, gt=0)
    """Test tasks."""
    k: int = Field(default=8, gt=0)
    """Attempts of which the best counts."""
    samples: int = Field(default=8, gt=0)
    """Attempts at each task, k or more: more of them, less noise."""
    temperature: float = Field(default=1.0, gt=0)
    max_new_tokens: int = Field(default=128, gt=0)
    """Of one turn."""
    batch_size: int = Field(default=32, gt=0)

    @model_validator(mode="after")
    def _enough(self) -> PassAtK:
        if self.k > self.samples:
            raise ValueError(f"k is {self.k}, samples {self.samples}; sample at least k attempts")
        return self

    def __call__(self, policy: Policy) -> ProbeScores:
        import numpy as np

        from tempering.best_of import best_of
        from tempering.rollouts.play import How, play

        tasks = self.environment.tasks("test", self.n)
        how = How(self.max_new_tokens, self.temperature, concurrent=self.batch_size)
        groups = play(policy, self.environment, list(enumerate(tasks)), self.samples, how)
        ends = self.environment.judge([one for group in groups for one in group]).reshape(len(tasks), -1)
        items = []
        for task, group, end_N in zip(tasks, groups, ends, strict=True):
            score_N = end_N + np.array([sum(one.rewards) for one in group])
            if np.isnan(score_N).any():
                continue
            said = [self.environment.final(one.answer) for one in group]
            extra = {"pass@1": float(score_N.mean()), "majority": majority(said, score_N)}
            items.append(ItemScore(task.id, best_of(score_N, score_N, self.k), task.prompt[-1].content, " | ".join(said), extra=extra))
        summary = {name: mean([item.extra[name] for item in items]) for name in ("pass@1", "majority")} if items else {}
        return ProbeScores(self.name, f"pass@{self.k}", "continuous", True, tuple(items), self.side, summary)
