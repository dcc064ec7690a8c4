"""A stream beside which the role "reference" follows the policy as a moving average: the dynamic anchor of WARP and T1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tempering.types import Handle, Parts, Run, Stream


class Following:
    """The scope of an anchor: the parameters that another scope would train, which checkpoints then hold, and none of which gets a gradient.

    Args:
        scope: the policy's (a `Scope`), so that both have the same parameters.
    """

    def __init__(self, scope: Any) -> None:
        self.scope = scope

    def attach(self, model: nn.Module) -> Handle:
        """The other scope attached."""
        handle = self.scope.attach(model)
        handle.model.requires_grad_(False)
        return handle


class Anchored:
    """The same parts; before each step the reference's parameters go a part of the way to the policy's.

    theta_ref = (1 - mu) theta_ref + mu theta

    The reference must be a role with the policy's kind of scope (`Following`), so that checkpoints hold it; nothing gives it a gradient. Of adapters
    the two matrices are averaged, each by itself.

    Args:
        mu: the part of the way; 0 leaves the reference where it was, 1 makes it the policy as it is before the step.
    """

    def __init__(self, stream: Stream, mu: float) -> None:
        self.stream, self.mu = stream, mu

    def next(self, run: Run) -> Parts:
        """The next step's parts."""
        policy = run.roles["policy"].handle.params
        with torch.no_grad():
            for name, p in run.roles["reference"].handle.params.items() if self.mu else ():
                p.lerp_(policy[name].to(p.dtype), self.mu)
        return self.stream.next(run)

    def state(self) -> dict[str, Any]:
        return self.stream.state()

    def load(self, state: Mapping[str, Any]) -> None:
        self.stream.load(state)
