"""The weights alone: asked plainly, of the policy's own weights, without the decode chain and the other models that stand before them.

What forgets while it decodes (ULD, ECO) changes no weight, and this attack undoes it: it is what somebody gets who has the files and not only an
interface. Of a policy without a decode chain it is the attack `asked`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

from tempering.methods.probes._attack import Attack
from tempering.types import Policy


class WeightsAlone(Attack):
    """The share of secrets that the plain weights keep."""

    kind: Literal["weights_alone"] = "weights_alone"
    name: str = "weights alone"

    @contextmanager
    def on(self, policy: Policy) -> Iterator[Policy]:
        """The policy without its decode chain."""
        yield replace(policy, decode=(), roles={})
