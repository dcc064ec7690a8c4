"""Relearned: a copy is fine-tuned for a few steps on something else, and what was forgotten is asked for again.

Doshi & Stickland (2024, arXiv 2411.12103): training on unrelated data brings most of it back; Lynch et al. (2024, arXiv 2402.16835, test 5) train
on the subject itself. `taught` are facts that share no answer with those asked for, so whatever comes out was still there: a model that never saw
the data stays where it was. The curve over steps is in the summary ("out after 5 steps"), and each secret has the first step count that brought it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from pydantic import Field

from tempering.forgetting.targets import Secret
from tempering.methods.probes._dial import Dial
from tempering.types import Policy

CATALOGUE = ("S010", "S027")


class Relearned(Dial):
    """The share of secrets that do not come back while a copy is taught other things."""

    kind: Literal["relearned"] = "relearned"
    name: str = "relearned"
    taught: tuple[Secret, ...] = ()
    """What the copy is taught; empty takes what has nothing to do with any secret (sums, or paragraphs)."""
    steps: tuple[int, ...] = (5, 20)
    """After how many steps it is asked; 0 is the model as it is."""
    lr: float = Field(default=1e-3, ge=0)
    """Learning rate of the LoRA copy; 0 changes nothing."""
    batch_size: int = Field(default=8, gt=0)
    """Facts of one step."""
    seed: int = 0
    unit: ClassVar[str] = "out after {:g} steps"

    def along(self, policy: Policy, look: Callable[[float, Policy], None]) -> None:
        from tempering.forgetting.copies import relearn, unrelated

        taught = self.taught or unrelated(policy)
        if not self.lr:
            for steps in sorted(self.steps):
                look(steps, policy)
            return
        relearn(policy, taught, sorted(self.steps), look, lr=self.lr, batch_size=self.batch_size, seed=self.seed)
