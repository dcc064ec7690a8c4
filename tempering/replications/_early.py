"""A model that has just forgotten, for claims about what attacks bring back: it says a quarter, about, of what it said, and is otherwise well."""

from __future__ import annotations

from tempering.config import Schedule
from tempering.methods.objectives.npo import NPO
from tempering.proof.claims import Scale
from tempering.proof.small import tiny, train
from tempering.replications._forgetting import both
from tempering.types import Policy


def forgotten(seed: int, scale: Scale) -> Policy:
    """builtin:tiny after 16 steps of NPO with the retain rows' likelihood on ten people; beta 1 and the rate of 1e-3 are chosen on seed 9."""
    start = tiny()
    return train(start, NPO(beta=1.0), both(start, seed), steps=scale(16), seed=seed, lr=1e-3, schedule=Schedule(name="constant"))
