"""Held actions: how well a decision transformer foretells the recorded actions of walks that it did not learn from.

A walk's score is the mean negative log-likelihood of its actions, each given what was wanted, seen and done before it; "accuracy" is the share of
actions that are the likeliest. Where there is no world to act in this is what can be measured; a walk that was no good is foretold like any other.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tempering.errors import UserError
from tempering.items import ProbeValue, mean
from tempering.types import ItemScore, Policy, ProbeScores


class HeldActions(ProbeValue):
    """Negative log-likelihood per action of held walks."""

    kind: Literal["held_actions"] = "held_actions"
    name: str = "held_actions"
    side: Literal["target", "keep"] = "target"
    walks: tuple[Any, ...] = Field(min_length=1)
    """`worlds.grid.Trajectory` values."""
    role: str = "actor"
    """The policy's role that acts (models/decisions.py)."""

    def __call__(self, policy: Policy) -> ProbeScores:
        import torch

        from tempering.sample import evaluating

        if self.role not in policy.roles:
            raise UserError(f"probe {self.name}: the policy has no role {self.role!r} that could act; `temper run lamo` trains one")
        actor: Any = policy.roles[self.role]
        device, items = actor.value_head.weight.device, []
        for i, walk in enumerate(self.walks[: self.limit]):
            ids = torch.tensor([actor.tokens(walk.returns_to_go, walk.observations, walk.actions)], device=device)
            with torch.no_grad(), evaluating(actor):
                said_NK = actor.every(ids)[0].double().cpu()
            action_N = torch.tensor(walk.actions)
            nll = float(-said_NK.log_softmax(-1).gather(-1, action_N[:, None]).mean())
            right = float((said_NK.argmax(-1) == action_N).double().mean())
            items.append(ItemScore(f"walk:{i}", nll, expected=" ".join(map(str, walk.actions)), extra={"accuracy": right}))
        accuracy = mean([item.extra["accuracy"] for item in items])
        return ProbeScores(self.name, "nll per action", "continuous", False, tuple(items), self.side, {"accuracy": accuracy})
