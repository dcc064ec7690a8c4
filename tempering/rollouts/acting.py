"""A round of sampling by itself: which tasks, what is said about them, what that earns. All that a process which only samples has to know.

Noise is keyed by (seed, visit), so a round is a function of its first visit, of the weights and of what earlier rounds left open: whoever samples it,
and however often, it is the same (in float32, with as many threads).

Of several processes each plays its share of a round's tasks, and all get the whole round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter

from tempering.data.streams import Order
from tempering.distributed.world import ALONE, World
from tempering.rollouts.health import silent
from tempering.rollouts.play import Begun, How, go_on, opened, play
from tempering.rollouts.rows import rewards
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.spoilt import spoilt
from tempering.rollouts.types import Environment, Trajectory, overlong
from tempering.types import Policy, Record

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Group:
    """Conversations about one task, and what each earned in all, nan where nobody knows."""

    played: Sequence[Trajectory]
    reward: Sequence[np.ndarray]
    """By token [T of each]."""
    greedy: float = 0.0
    along: Sequence[np.ndarray] = ()
    """What of `reward` was said of single tokens; empty where the environment says nothing of them."""

    @property
    def score_N(self) -> np.ndarray:
        return np.array([reward_T.sum() for reward_T in self.reward])

    def known(self) -> Group:
        """Without conversations that nobody could score."""
        keep = [i for i, score in enumerate(self.score_N) if np.isfinite(score)]
        of = {"played": self.played, "reward": self.reward, "along": self.along}
        return replace(self, **{name: [x[i] for i in keep] for name, x in of.items() if x})


Tries = list[list[Group]]
"""What a round sampled: all at once, or, where silent groups are replaced, one list for each time that it was."""


@dataclass(frozen=True)
class Round:
    """What came of a round."""

    tries: Tries
    left: Sequence[Begun] = ()
    """Conversations that go on in a later one."""
    carried: int = 0
    """How many of its groups an earlier one had begun."""


@dataclass(frozen=True)
class Acting:
    """How a policy acts in a round; called with its weights and a visit, it gives the round that begins there.

    Args:
        tasks: gone through in a new seeded order each time.
        wanted: tasks of a round.
        greedy: whether the likeliest answer to each task is wanted too.
        dtype: of sampling.
        engine: who decodes where it is not our own decoder; a sampler that has one sets it.
    """

    tokenizer: Any
    environment: Environment
    tasks: Sequence[Record]
    settings: Rollouts
    max_new_tokens: int
    seed: int
    wanted: int
    greedy: bool
    dtype: torch.dtype | None
    engine: Any = None

    def span(self, begun: Sequence[Begun] = ()) -> int:
        """Visits that a round takes at most, where so much is open already."""
        return self.wanted * (self.settings.tries if self.settings.dynamic else 1) + self.settings.partial - len({game.key for game in begun})

    def __call__(self, model: torch.nn.Module, begin: int, begun: Sequence[Begun] = (), world: World = ALONE) -> Round:
        policy, tries, at, missing = Policy(model, self.tokenizer), list[list[Group]](), begin, self.wanted
        if self.settings.partial:
            # Which groups are whole first is known to who plays all of them.
            return world.lead(lambda: self._partly(policy, begin, begun))

        def played(visits: Sequence[tuple[int, Record]]) -> list[Group]:
            return self._grouped(policy, play(policy, self.environment, visits, self.settings.samples, self._how))

        for _ in range(self.settings.tries if self.settings.dynamic else 1):
            tries.append(world.spread([self._visit(i) for i in range(at, at + missing)], played))
            at += missing
            missing -= sum(not (self.settings.dynamic and silent(group.score_N)) for group in tries[-1])
            if not missing:
                break
        return Round(tries)

    def _partly(self, policy: Policy, begin: int, begun: Sequence[Begun]) -> Round:
        """A round that ends with enough whole groups."""
        games = [*begun, *opened([self._visit(i) for i in range(begin, begin + self.span(begun))], self.settings.samples)]
        whole, left = go_on(policy, self.environment, games, self._how, self.wanted)
        return Round([self._grouped(policy, list(whole.values()))], left, sum(key < begin for key in whole))

    def chosen(self, tries: Tries) -> list[Group]:
        """What of a round is learned from: groups that teach something first, where others were to be replaced."""
        every = [group for groups in tries for group in groups]
        if self.settings.dynamic:
            every.sort(key=lambda group: silent(group.score_N))
        return [group.known() for group in every[: self.wanted]]

    def _visit(self, visit: int) -> tuple[int, Record]:
        """The task of a visit, with its number."""
        return visit, self.tasks[self._order(visit)]

    @cached_property
    def _order(self) -> Order:
        return Order(len(self.tasks), self.seed)

    @property
    def _how(self) -> How:
        return How(self.max_new_tokens, self.settings.temperature, self.seed, self.settings.concurrent, self.dtype, self.engine)

    def _grouped(self, policy: Policy, groups: Sequence[Sequence[Trajectory]]) -> list[Group]:
        """Conversations by task, with what they earned."""
        every = [trajectory for group in groups for trajectory in group]
        earned, along = iter(self._earned(every)), self.environment.along(every, self.tokenizer)
        made = [Group(group, [next(earned) for _ in group]) for group in groups]
        if along is not None:
            each = iter(along)
            made = [_along(group, [next(each) for _ in group.played]) for group in made]
        if not self.greedy:
            return made
        tasks = [group[0].task for group in groups]
        first = [group[0] for group in play(policy, self.environment, list(enumerate(tasks)), 1, replace(self._how, temperature=0.0))]
        return [replace(group, greedy=float(np.nan_to_num(reward_T.sum()))) for group, reward_T in zip(made, self._earned(first), strict=True)]

    def _earned(self, played: Sequence[Trajectory]) -> list[np.ndarray]:
        """What each token of each conversation earned by its turn and by the end."""
        ends = self.environment.judge(played) - self._too_long(played)
        if self.settings.spoilt:
            ends = ends - self.settings.spoilt * spoilt(played)
        return [rewards(trajectory, float(end)) for trajectory, end in zip(played, ends, strict=True)]

    def _too_long(self, played: Sequence[Trajectory]) -> np.ndarray:
        """DAPO's price of the longest turn: 0 before the last `overlong` share of the budget, 1 at its end."""
        longest = [max(len(turn.ids) for turn in trajectory.turns) for trajectory in played]
        last = self.settings.overlong * self.max_new_tokens
        return overlong(longest, self.max_new_tokens, last) if last else np.zeros(len(played))


def _along(group: Group, along: list[np.ndarray]) -> Group:
    """A group with what was said of single tokens, as a part of its reward."""
    return replace(group, reward=[reward_T + along_T for reward_T, along_T in zip(group.reward, along, strict=True)], along=along)


_PLAYED, _BEGUN = TypeAdapter(list[Trajectory]), TypeAdapter(list[Begun])


def to_json(made: Round) -> dict[str, Any]:
    """A round as JSON holds it, to the bit."""
    return {"tries": _tries_to_json(made.tries), "left": begun_to_json(made.left), "carried": made.carried}


def from_json(made: Mapping[str, Any]) -> Round:
    """What `to_json` gave."""
    return Round(_tries_from_json(made["tries"]), begun_from_json(made["left"]), int(made["carried"]))


def begun_to_json(begun: Sequence[Begun]) -> list[dict[str, Any]]:
    """Open conversations as JSON holds them, to the bit."""
    return _BEGUN.dump_python(list(begun), mode="json")


def begun_from_json(begun: Sequence[Mapping[str, Any]]) -> list[Begun]:
    """What `begun_to_json` gave."""
    return _BEGUN.validate_python(begun)


def _tries_to_json(tries: Tries) -> list[list[dict[str, Any]]]:
    return [
        [
            {
                "played": _PLAYED.dump_python(list(g.played), mode="json"),
                "greedy": g.greedy,
                **{name: [x.tolist() for x in of] for name, of in (("reward", g.reward), ("along", g.along))},
            }
            for g in groups
        ]
        for groups in tries
    ]


def _tries_from_json(tries: Sequence[Sequence[Mapping[str, Any]]]) -> Tries:
    return [
        [
            Group(
                _PLAYED.validate_python(g["played"]),
                greedy=float(g["greedy"]),
                **{name: [np.array(x, np.float64) for x in g[name]] for name in ("reward", "along")},
            )
            for g in groups
        ]
        for groups in tries
    ]
