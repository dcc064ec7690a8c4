"""Sampled: answers are drawn instead of the most likely one being taken, and any of several may bring the secret.

Greedy answers show the top of a distribution; unlearning that only moved the secret to second place leaks it after a few draws (Scholten et al.
2024, arXiv 2410.03523). The noise is keyed by secret and draw, so two models are asked with the same noise.
"""

from __future__ import annotations

from typing import Literal

from tempering.methods.probes._attack import Attack


class Sampled(Attack):
    """The share of secrets that come out in none of several draws."""

    kind: Literal["sampled"] = "sampled"
    name: str = "sampled"
    samples: int = 8
    """Draws for each secret."""
    temperature: float = 1.0
    """Of the draws; 0 takes the most likely answer, each time the same."""
