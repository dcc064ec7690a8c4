"""Finding a plan: all of them where they are few, a Markov chain over them where they are not.

The chain is Metropolis's, as in ReaLHF (arXiv 2406.14088): it begins with the layout that is fastest for each call alone, gives one call another
layout at random, and keeps that with probability min(1, exp(-beta * (cost' - cost) / cost_0)), where cost_0 is the start's. A plan that does not fit
into memory costs more by the share that it is over, times ten, so that the chain may pass through it; what is given back fits.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass

from tempering.errors import UserError
from tempering.placement.calls import Call, Cluster, Iteration
from tempering.placement.cost import Estimate, Layout, Plan, estimate, fits, working

MICRO = (1, 2, 4, 8, 16, 32)
OVER = 10.0


@dataclass(frozen=True)
class Found:
    """The best plan that was met."""

    plan: Plan
    estimate: Estimate
    tried: int
    """How many were looked at."""


def meshes(cluster: Cluster) -> list[range]:
    """Neighbouring GPUs that a call may have: a power of two, or all, of one machine; or whole machines."""
    inside = sorted({min(2**k, cluster.gpus) for k in range(cluster.gpus.bit_length() + 1)})
    found = [range(at, at + size) for size in inside for at in range(0, cluster.devices - size + 1, size) if at % cluster.gpus + size <= cluster.gpus]
    return found + [
        range(first * cluster.gpus, (first + count) * cluster.gpus)
        for count in range(2, cluster.nodes + 1)
        for first in range(cluster.nodes - count + 1)
    ]


def layouts(call: Call, iteration: Iteration, cluster: Cluster, micro: tuple[int, ...] = MICRO) -> list[Layout]:
    """Every way to run a call.

    Raises:
        UserError: there is none.
    """
    found = [
        layout
        for mesh in meshes(cluster)
        for tensor in range(1, len(mesh) + 1)
        if len(mesh) % tensor == 0
        for stages in range(1, len(mesh) // tensor + 1)
        if len(mesh) // tensor % stages == 0
        for m in micro
        if fits(call, layout := Layout(mesh[0], len(mesh) // (tensor * stages), tensor, stages, m), iteration, cluster)
    ]
    if not found:
        raise UserError(f"call {call.name}: no layout divides its layers, widths and batch evenly; take another batch or fewer updates")
    return found


def count(iteration: Iteration, cluster: Cluster, micro: tuple[int, ...] = MICRO) -> int:
    """How many plans there are."""
    return math.prod(len(layouts(call, iteration, cluster, micro)) for call in iteration.calls)


def cost(found: Estimate, cluster: Cluster) -> float:
    """Seconds, and more where memory is exceeded."""
    over = max(max(found.peak) / cluster.memory - 1, 0.0)
    return found.seconds * (1 + OVER * over) if over else found.seconds


def exhaustive(iteration: Iteration, cluster: Cluster, micro: tuple[int, ...] = MICRO) -> Found:
    """The best of all plans; for small spaces.

    Raises:
        UserError: none fits into memory.
    """
    choices = [layouts(call, iteration, cluster, micro) for call in iteration.calls]
    best: Found | None = None
    for tried, chosen in enumerate(itertools.product(*choices), 1):
        plan = {call.name: layout for call, layout in zip(iteration.calls, chosen, strict=True)}
        found = estimate(iteration, plan, cluster)
        if max(found.peak) <= cluster.memory and (best is None or found.seconds < best.estimate.seconds):
            best = Found(plan, found, tried)
    return _any(best, cluster, count(iteration, cluster, micro))


def chain(iteration: Iteration, cluster: Cluster, *, steps: int = 20_000, seed: int = 0, beta: float = 30.0, micro: tuple[int, ...] = MICRO) -> Found:
    """The best plan that a Markov chain of so many steps meets.

    Raises:
        UserError: none of them fits into memory.
    """
    source = random.Random(seed)
    choices = {call.name: layouts(call, iteration, cluster, micro) for call in iteration.calls}
    plan = {call.name: min(choices[call.name], key=lambda of, c=call: working(c, of, iteration, cluster)) for call in iteration.calls}
    found = estimate(iteration, plan, cluster)
    now = start = cost(found, cluster)
    best = Found(plan, found, 1) if max(found.peak) <= cluster.memory else None
    for step in range(steps):
        name = source.choice(iteration.calls).name
        other = {**plan, name: source.choice(choices[name])}
        found = estimate(iteration, other, cluster)
        then = cost(found, cluster)
        if then <= now or source.random() < math.exp(-beta * (then - now) / start):
            plan, now = other, then
            if max(found.peak) <= cluster.memory and (best is None or found.seconds < best.estimate.seconds):
                best = Found(plan, found, step + 2)
    return _any(best, cluster, steps + 1)


def symmetric(iteration: Iteration, cluster: Cluster, micro: tuple[int, ...] = MICRO) -> Found | None:
    """The best plan in which every call has all GPUs and shares them in one way; None where none fits."""
    choices = [[of for of in layouts(call, iteration, cluster, micro) if of.size == cluster.devices] for call in iteration.calls]
    best: Found | None = None
    tried = 0
    for ways in {of.weights for of in choices[0]}:
        plan = dict[str, Layout]()
        for call, every in zip(iteration.calls, choices, strict=True):
            if mine := [of for of in every if of.weights == ways]:
                plan[call.name] = min(mine, key=lambda of, c=call: working(c, of, iteration, cluster))
        if len(plan) < len(iteration.calls):
            continue
        # Pieces that are fastest may not fit; smaller ones then do.
        for smaller in range(len(micro)):
            tried += 1
            cut = {name: Layout(*of.weights, micro[min(micro.index(of.micro) + smaller, len(micro) - 1)]) for name, of in plan.items()}
            if not all(fits(call, cut[call.name], iteration, cluster) for call in iteration.calls):
                break
            found = estimate(iteration, cut, cluster)
            if max(found.peak) <= cluster.memory and (best is None or found.seconds < best.estimate.seconds):
                best = Found(cut, found, tried)
    return best


def _any(best: Found | None, cluster: Cluster, tried: int) -> Found:
    if best is None:
        gib = cluster.memory / 2**30
        raise UserError(f"none of {tried:,} plans fits into {gib:.0f} GiB on each of {cluster.devices} GPUs; give more GPUs, or a smaller batch")
    return best
