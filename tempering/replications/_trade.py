"""What claims about ways of forgetting share: how far apart a method can bring what stays and what goes, at its best step.

Methods forget at different paces, so they are not compared at one step: a run is looked at along the way, and the largest difference between accuracy
on those who stay and on those who are to go is what it can do. Both arms choose their step so, on the questions that count. A model that never met
those who are to go would reach the accuracy on those who stay, about 0.9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tempering.config import Schedule
from tempering.methods.objectives.gradient_ascent import GradientAscent
from tempering.proof.claims import Scale
from tempering.proof.small import train
from tempering.replications._forgetting import both, known
from tempering.types import Objective, Policy, Stream

METRIC = "best difference of accuracies"


def trade(
    start: Policy,
    objective: Objective,
    seed: int,
    scale: Scale,
    *,
    lr: float,
    see: Callable[[Policy], Policy] = lambda tuned: tuned,
    rows: Stream | None = None,
    **how: Any,
) -> dict[str, float]:
    """The best of 60 steps at a constant rate: the difference, and what it is made of.

    Args:
        start: what trains.
        see: what is asked of it, where that is not what trains.
        rows: other rows than those of `both`.
        how: further arguments of `proof.small.train`.
    """
    seen: list[tuple[float, float, int]] = []

    def look(step: int, policy: Policy) -> None:
        if step % 4 == 0:
            seen.append((*known(see(policy), seed, scale(70)), step))

    train(start, objective, rows or both(start, seed), steps=scale(60, 4), seed=seed, lr=lr, schedule=Schedule(name="constant"), look=look, **how)
    goes, stays, step = max(seen, key=lambda found: found[1] - found[0])
    return {METRIC: stays - goes, "accuracy on those who stay": stays, "accuracy on those who go": goes, "step": float(step)}


def graddiff(start: Policy, seed: int, scale: Scale) -> dict[str, float]:
    """Gradient ascent with the likelihood of the retain rows, at the best of 3e-4, 5e-4 and 1e-3 on seed 9."""
    return trade(start, GradientAscent(retain_loss="nll"), seed, scale, lr=3e-4)
