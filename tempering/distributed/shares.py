"""Who takes which part of a step. Every process reads the same step and takes whole groups of it, so that all have about the same number of tokens.

What must be the same everywhere (the divisors of the losses, the number of micro-batches) is computed from the whole step by each process alone, so
nothing has to be asked. A process with fewer micro-batches gets empty ones: it takes part in every forward and backward pass of the others, because
sharded weights are gathered and gradients reduced there.
"""

from __future__ import annotations

import torch

from tempering.distributed.world import World
from tempering.layout import lengths, select, split
from tempering.types import Parts


def share(parts: Parts, micro_tokens: int | None, world: World) -> list[Parts]:
    """This process's micro-batches of a step; as many as every other process has.

    Args:
        parts: the whole step, the same on every process.
        micro_tokens: tokens of one micro-batch, see `layout.split`.
    """
    if world.hands == 1:
        return split(parts, micro_tokens)
    everyone = [split(_take(parts, groups), micro_tokens) for groups in deal(parts, world.hands)]
    mine = everyone[world.hand]
    return mine + [_take(parts, set())] * (max(map(len, everyone)) - len(mine))


def deal(parts: Parts, hands: int) -> list[set[int]]:
    """The groups of a step in `hands` sets of about the same number of tokens: the largest first, each to the set that has least."""
    size: dict[int, int] = {}
    for batch in parts.values():
        for group, tokens in zip(batch.group_S.tolist(), lengths(batch).tolist(), strict=True):
            size[group] = size.get(group, 0) + tokens
    dealt: list[set[int]] = [set() for _ in range(hands)]
    held = [0] * hands
    for group in sorted(size, key=lambda group: (-size[group], group)):
        least = held.index(min(held))
        dealt[least].add(group)
        held[least] += size[group]
    return dealt


def _take(parts: Parts, groups: set[int]) -> Parts:
    return {
        name: select(batch, torch.tensor([group in groups for group in batch.group_S.tolist()], dtype=torch.bool, device=batch.ids_T.device))
        for name, batch in parts.items()
    }


def same(parts: Parts, step: int, world: World) -> None:
    """Raise RuntimeError where processes have read different rows: a stream must give the same step everywhere."""
    mine = [(name, batch.num_tokens, int((batch.ids_T * torch.arange(1, batch.num_tokens + 1)).sum())) for name, batch in sorted(parts.items())]
    for rank, theirs in enumerate(world.gather(mine)):
        if theirs != mine:
            raise RuntimeError(f"process {rank} and process {world.rank} read different rows at step {step + 1}; the stream is not deterministic")
