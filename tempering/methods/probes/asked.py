"""Asked plainly: does the model still give the answer when it is asked as it was taught, or in the other words of held-out questions?

The weakest attack, and the one that published numbers of unlearning mostly stop at. Greedy decoding.
"""

from __future__ import annotations

from typing import Literal

from tempering.methods.probes._attack import Attack


class Asked(Attack):
    """The share of secrets that do not come out when they are asked for plainly."""

    kind: Literal["asked"] = "asked"
    name: str = "asked"
