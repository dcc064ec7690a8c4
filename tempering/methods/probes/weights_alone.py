"""The weights alone: asked plainly, of the policy's own weights, without the decode chain and the other models that stand before them.

What forgets while it decodes (ULD, ECO) or by what stands in the prompt (SPUL) changes no weight, and this attack undoes it: it is what somebody gets
who has the files and not only an interface. Of any other policy it is the attack `asked`.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Literal

from tempering.methods.probes._attack import Attack
from tempering.types import Policy, ProbeScores


class WeightsAlone(Attack):
    """The share of secrets that the plain weights keep."""

    kind: Literal["weights_alone"] = "weights_alone"
    name: str = "weights alone"

    template: str | None = None
    """The chat template to ask with, where the policy's own is part of the method."""

    def __call__(self, policy: Policy) -> ProbeScores:
        """The policy without its decode chain, under the plain template."""
        tokenizer = policy.tokenizer
        if self.template is not None:
            tokenizer = copy.deepcopy(tokenizer)
            tokenizer.chat_template = self.template
        return super().__call__(replace(policy, decode=(), roles={}, tokenizer=tokenizer))
