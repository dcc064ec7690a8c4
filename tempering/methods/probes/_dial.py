"""Attacks that go along a dial (steps of training, a share of the way back): a secret is out when any setting brings it, and the first is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from tempering.methods.probes._attack import KEPT, Attack
from tempering.types import Policy, ProbeScores


class Dial(Attack):
    """Base of attacks with a curve: `along` shows the model at every setting, in order."""

    metric: ClassVar[str] = KEPT
    note: ClassVar[str] = ""
    unit: ClassVar[str] = ""
    """What a setting is, as in "out after 5 steps"."""

    def along(self, policy: Policy, look: Callable[[float, Policy], None]) -> None:
        """Call `look` with each setting and the model there."""
        raise NotImplementedError

    def __call__(self, policy: Policy) -> ProbeScores:
        items = self.chosen
        said: list[list[tuple[str, str]]] = [[] for _ in items]
        first: dict[str, float] = {}
        curve: dict[str, float] = {}

        def look(setting: float, changed: Policy) -> None:
            # What came out at an earlier setting is out.
            left = [i for i, item in enumerate(items) if item.id not in first]
            for i, texts in zip(left, self.outputs(changed, [items[i] for i in left]), strict=True):
                said[i] += texts
                if self.scored(items[i], texts).score < 1:
                    first[items[i].id] = float(setting)
            curve[self.unit.format(setting)] = len(first) / len(items)

        self.along(policy, look)
        scored = [self.scored(item, texts, {"first": first[item.id]} if item.id in first else {}) for item, texts in zip(items, said, strict=True)]
        return self.told(scored, self.metric, curve, self.note)
