"""Target return: what a decision transformer earns in a world when a return is asked of it, from starts that no walk for training had.

A walk begins with the return that is wanted; after each action what it earned is taken off (Chen et al. 2021, arXiv 2106.01345, section 3): R_(t+1) =
R_t - r_t. Actions are drawn from the head's softmax, by numbers that hang on the seed, the start and the step alone, or are the likeliest ones at
temperature 0. All walks take their steps together; one that ended leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import Field

from tempering.errors import UserError
from tempering.items import ProbeValue, mean
from tempering.types import ItemScore, Policy, ProbeScores


@dataclass
class _Walk:
    place: Any
    returns: list[float]
    observations: list[tuple[float, ...]] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    earned: float = 0.0
    over: bool = False


class TargetReturn(ProbeValue):
    """What acting earns."""

    kind: Literal["target_return"] = "target_return"
    name: str = "target_return"
    side: Literal["target", "keep"] = "target"
    world: Any
    """Where to act: `worlds.grid.Grid`, or another with `starts`, `seen`, `step`, `moves` and `horizon`."""
    n: int = Field(default=100, gt=0)
    """Test starts, at most as many as there are."""
    wanted: float = 1.0
    """The return that is asked for."""
    temperature: float = Field(default=1.0, ge=0)
    """Of the actions; 0 takes the likeliest."""
    seed: int = Field(default=0, ge=0)
    """Of the draws."""
    role: str = "actor"
    """The policy's role that acts (models/decisions.py)."""

    def __call__(self, policy: Policy) -> ProbeScores:
        if self.role not in policy.roles:
            raise UserError(f"probe {self.name}: the policy has no role {self.role!r} that could act; `temper run lamo` trains one")
        every = self.world.starts("test")[: self.n]
        walks = [_Walk(start, [self.wanted]) for start in every]
        for step in range(self.world.horizon):
            if not (going := [(i, walk) for i, walk in enumerate(walks) if not walk.over]):
                break
            for _, walk in going:
                walk.observations.append(self.world.seen(walk.place))
            for (i, walk), logits in zip(going, self._logits(policy, [walk for _, walk in going]), strict=True):
                action = self._drawn(logits, i, step)
                walk.place, reward, walk.over = self.world.step(walk.place, action)
                walk.actions.append(action)
                walk.returns.append(walk.returns[-1] - reward)
                walk.earned += reward
        items = tuple(
            ItemScore(
                "-".join(map(str, start)),
                walk.earned,
                f"start and goal {start}",
                " ".join(self.world.moves[action] for action in walk.actions),
                extra={"steps": float(len(walk.actions))},
            )
            for start, walk in zip(every, walks, strict=True)
        )
        binary = all(item.score in (0.0, 1.0) for item in items)
        summary = {"steps": mean([item.extra["steps"] for item in items])}
        return ProbeScores(self.name, "return", "binary" if binary else "continuous", True, items, self.side, summary)

    def _logits(self, policy: Policy, walks: Sequence[_Walk]) -> np.ndarray:
        """Of the next action of each walk, float64 [N, K]."""
        import torch

        from tempering.sample import evaluating

        actor: Any = policy.roles[self.role]
        ids = torch.tensor([actor.tokens(walk.returns, walk.observations, walk.actions) for walk in walks])
        with torch.no_grad(), evaluating(actor):
            return actor.logits(ids.to(actor.value_head.weight.device)).double().cpu().numpy()

    def _drawn(self, logits: np.ndarray, start: int, step: int) -> int:
        if not self.temperature:
            return int(logits.argmax())
        noise = np.random.Generator(np.random.PCG64([self.seed, start, step])).gumbel(size=len(logits))
        return int((logits / self.temperature + noise).argmax())
