"""Weights moved from one layout to another, by ranges of rows or columns: nothing is computed with them, so there and back is the same to the bit.

A weight belongs to a layer, and so to a stage, and is cut along one axis between the GPUs that share matrices, or lies whole on each of them. Who
needs a range gets it from one that holds it: from its own memory, else from a holder on its machine, else from any, in turn, so that groups that hold
the same share the sending. ReaLHF (arXiv 2406.14088) has each range broadcast by one holder to all that need it; here ranges go one to one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from tempering.errors import UserError
from tempering.placement.cost import Layout

Pieces = Mapping[str, Tensor]
"""What one GPU holds: name -> its range of the weight."""


@dataclass(frozen=True)
class Weight:
    """How one weight may be cut."""

    layer: int
    """The layer it belongs to, from 0."""
    shape: tuple[int, ...]
    axis: int | None = None
    """Along which it is cut between GPUs that share matrices; None leaves it whole."""


@dataclass(frozen=True)
class Send:
    """A range of a weight that goes from one GPU to another, or stays (source and target the same)."""

    name: str
    source: int
    target: int
    begin: int
    end: int
    """Along the weight's axis; of its first where it has none."""


def held(weight: Weight, layers: int, layout: Layout, device: int) -> tuple[int, int] | None:
    """The range of a weight that a GPU holds; None where the layer is of another stage.

    Raises:
        UserError: layers or the weight's axis cannot be cut evenly.
    """
    if layers % layout.stages:
        raise UserError(f"{layers} layers cannot be cut into {layout.stages} stages of whole layers; take a divisor")
    stage, _, tensor = layout.place(device)
    if weight.layer // (layers // layout.stages) != stage:
        return None
    length = weight.shape[weight.axis or 0]
    if weight.axis is None:
        return 0, length
    if length % layout.tensor:
        raise UserError(f"a weight of {weight.shape} cannot be cut into {layout.tensor} along axis {weight.axis}; take a divisor of {length}")
    each = length // layout.tensor
    return tensor * each, (tensor + 1) * each


def cut(whole: Mapping[str, Tensor], weights: Mapping[str, Weight], layers: int, layout: Layout) -> dict[int, dict[str, Tensor]]:
    """Each GPU's pieces of a model that is whole."""
    found: dict[int, dict[str, Tensor]] = {}
    for device in layout.devices:
        found[device] = {}
        for name, weight in weights.items():
            if (own := held(weight, layers, layout, device)) is not None:
                found[device][name] = whole[name].narrow(weight.axis or 0, own[0], own[1] - own[0]).clone()
    return found


def sends(weights: Mapping[str, Weight], layers: int, here: Layout, there: Layout, node: int) -> list[Send]:
    """What has to travel from one layout to another.

    Args:
        node: GPUs of one machine.
    """
    found, turn = list[Send](), 0
    for name, weight in weights.items():
        holders = [(device, own) for device in here.devices if (own := held(weight, layers, here, device)) is not None]
        for target in there.devices:
            if (wanted := held(weight, layers, there, target)) is None:
                continue
            for begin, end in _ranges(wanted, [own for _, own in holders]):
                able = [device for device, own in holders if own[0] <= begin and end <= own[1]]
                near = [device for device in able if device // node == target // node] or able
                found.append(Send(name, target if target in able else near[turn % len(near)], target, begin, end))
                turn += target not in able
    return found


def _ranges(wanted: tuple[int, int], own: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The wanted range, cut where a holder's ends."""
    edges = sorted({edge for pair in (wanted, *own) for edge in pair if wanted[0] <= edge <= wanted[1]})
    return pairwise(edges)


def reallocate(
    pieces: Mapping[int, Pieces], weights: Mapping[str, Weight], layers: int, here: Layout, there: Layout, node: int = 8
) -> dict[int, dict[str, Tensor]]:
    """Each GPU's pieces under another layout, made of those of this one alone; all in one process."""
    plan = sends(weights, layers, here, there, node)
    got = {send: _taken(pieces[send.source][send.name], send, weights[send.name], layers, here) for send in plan}
    return {device: _joined([s for s in plan if s.target == device], got, weights) for device in there.devices}


def exchange(mine: Pieces, rank: int, weights: Mapping[str, Weight], layers: int, here: Layout, there: Layout, node: int = 8) -> dict[str, Tensor]:
    """The same among processes: this one's pieces under the other layout; every process of both layouts calls it. Works over gloo and nccl."""
    import torch.distributed as dist

    plan, got, waiting = sends(weights, layers, here, there, node), dict[Send, Tensor](), list[dist.P2POp]()
    sample = next(iter(mine.values()), torch.empty(0))
    for send in plan:
        if rank not in (send.source, send.target):
            continue
        if rank == send.source:
            got[send] = _taken(mine[send.name], send, weights[send.name], layers, here)
            if send.target != rank:
                waiting.append(dist.P2POp(dist.isend, got.pop(send), send.target))
        else:
            weight = weights[send.name]
            shape = [send.end - send.begin if i == (weight.axis or 0) else n for i, n in enumerate(weight.shape)]
            got[send] = sample.new_empty(shape)
            waiting.append(dist.P2POp(dist.irecv, got[send], send.source))
    for work in dist.batch_isend_irecv(waiting) if waiting else ():
        work.wait()
    return _joined([s for s in plan if s.target == rank], got, weights)


def _taken(piece: Tensor, send: Send, weight: Weight, layers: int, here: Layout) -> Tensor:
    own = held(weight, layers, here, send.source)
    assert own is not None
    return piece.narrow(weight.axis or 0, send.begin - own[0], send.end - send.begin).contiguous()


def _joined(plan: Sequence[Send], got: Mapping[Send, Tensor], weights: Mapping[str, Weight]) -> dict[str, Tensor]:
    names = dict.fromkeys(send.name for send in plan)
    return {name: torch.cat([got[send] for send in plan if send.name == name], weights[name].axis or 0) for name in names}
