"""A stream beside which the role "reference" follows the policy as a moving average: the dynamic anchor of WARP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tempering.types import Parts, Run, Stream


class Anchored:
    """The same parts; before each step the reference's weights go a part of the way to the policy's.

    theta_ref = (1 - mu) theta_ref + mu theta

    The reference must be a role with a full scope, so that checkpoints hold its weights; nothing gives them a gradient.

    Args:
        mu: the part of the way; 0 leaves the reference where it was.
    """

    def __init__(self, stream: Stream, mu: float) -> None:
        self.stream, self.mu = stream, mu

    def next(self, run: Run) -> Parts:
        """The next step's parts."""
        policy = dict(run.roles["policy"].model.named_parameters())
        with torch.no_grad():
            for name, p in run.roles["reference"].model.named_parameters() if self.mu else ():
                p.lerp_(policy[name].to(p.dtype), self.mu)
        return self.stream.next(run)

    def state(self) -> dict[str, Any]:
        return self.stream.state()

    def load(self, state: Mapping[str, Any]) -> None:
        self.stream.load(state)
