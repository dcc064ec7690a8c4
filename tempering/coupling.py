"""What ties the micro-batches of a step together, without gradient: an objective's `stats`, summed or gathered, and the state it keeps between steps.

Losses that need the whole step (a mean over it, a sorted list of it) stay exact under accumulation and on several processes, because `stats` is
complete before the first loss is computed. Gathered entries lie in the order of the stream whatever the cut, so ties are broken the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from tempering.distributed.world import ALONE, World
from tempering.types import Objective, Parts, Signals


@dataclass
class Coupled:
    """One term's stats of the whole step, and for each micro-batch of this process where its own segments stand in the gathered ones [S]."""

    stats: Mapping[str, Tensor] = field(default_factory=dict)
    mine: Sequence[Tensor] = ()


class Memory:
    """What the terms of an objective keep from step to step: `of[i]` is term i's state, name -> tensor."""

    def __init__(self, objective: Objective, device: torch.device | str = "cpu") -> None:
        self.of: list[dict[str, Tensor]] = [{n: t.detach().to(device) for n, t in term.initial().items()} for _, term in objective.terms()]

    def advance(self, objective: Objective, coupled: Sequence[Coupled]) -> None:
        """One step on, by every term's own rule.

        Raises:
            ValueError: the rule gave other names or shapes than `initial`.
        """
        for i, (_, term) in enumerate(objective.terms()):
            with torch.no_grad():
                after = dict(term.advance(self.of[i], coupled[i].stats))
            if {n: t.shape for n, t in after.items()} != {n: t.shape for n, t in self.of[i].items()}:
                raise ValueError(f"{type(term).__name__}.advance must return the names and shapes of its initial state")
            self.of[i] = {n: t.detach().to(self.of[i][n]) for n, t in after.items()}

    def tensors(self) -> dict[str, Tensor]:
        """All of it as "term/name"."""
        return {f"{i}/{name}": t for i, state in enumerate(self.of) for name, t in state.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        for i, state in enumerate(self.of):
            self.of[i] = {name: tensors[f"{i}/{name}"].to(t) for name, t in state.items()}


def couple(objective: Objective, micros: Iterable[tuple[Parts, Signals]], world: World = ALONE) -> list[Coupled]:
    """The stats of each term over all micro-batches and processes; terms that couple nothing get empty ones.

    Args:
        micros: (parts, signals) of this process's micro-batches, in order. All processes must have the same number.

    Raises:
        ValueError: gathered stats that are not one entry for each segment of the term's part.
    """
    terms = [term for _, term in objective.terms()]
    found: list[list[Mapping[str, Tensor]]] = [[] for _ in terms]
    groups: list[list[Tensor]] = [[] for _ in terms]
    with torch.no_grad():
        for parts, signals in micros:
            for i, term in enumerate(terms):
                if term.couples == "none":
                    continue
                stats = {name: value.detach() for name, value in term.stats(parts, signals).items()}
                groups[i].append(parts[term.part].group_S)
                if term.couples == "gather" and (odd := [n for n, t in stats.items() if t.dim() == 0 or len(t) != len(groups[i][-1])]):
                    raise ValueError(f"{type(term).__name__}: gathered stats {odd} are not one entry for each segment of part {term.part!r}")
                found[i].append(stats)
    join = {"sums": lambda stats, _: _summed(stats, world), "gather": lambda stats, groups: _gathered(stats, groups, world)}
    return [Coupled() if t.couples == "none" else join[t.couples](f, g) for t, f, g in zip(terms, found, groups, strict=True)]


def _summed(stats: list[Mapping[str, Tensor]], world: World) -> Coupled:
    names = sorted(stats[0])
    return Coupled(dict(zip(names, world.add([sum((s[n] for s in stats[1:]), stats[0][n]) for n in names]), strict=True)))


def _gathered(stats: list[Mapping[str, Tensor]], groups: list[Tensor], world: World) -> Coupled:
    device, here = groups[0].device, torch.cat(groups)
    ours = {name: torch.cat([s[name] for s in stats]) for name in sorted(stats[0])}
    if world.size > 1:
        here, ours = here.cpu(), {name: t.cpu() for name, t in ours.items()}
    everyone = world.gather((here, ours))
    group_S = torch.cat([theirs for theirs, _ in everyone]).to(device)
    # A group is never cut, and its segments stay in order: sorted by group, entries lie as the stream gave them.
    order_S = torch.argsort(group_S, stable=True)
    place_S = torch.empty_like(order_S).index_copy(0, order_S, torch.arange(len(order_S), device=device))
    start = sum(len(theirs) for theirs, _ in everyone[: world.rank])
    mine = place_S[start : start + len(here)].split([len(g) for g in groups])
    return Coupled({name: torch.cat([values[name] for _, values in everyone]).to(device)[order_S] for name in ours}, mine)


def apart(batches: Sequence[Parts]) -> list[Parts]:
    """The same parts with groups numbered on from batch to batch, so that no two batches share one."""
    start, found = 0, []
    for parts in batches:
        found.append({name: replace(batch, group_S=batch.group_S + start) for name, batch in parts.items()})
        start = max((int(batch.group_S.max()) + 1 for batch in found[-1].values() if batch.num_segments), default=start)
    return found
