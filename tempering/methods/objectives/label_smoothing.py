"""Label smoothing: a share epsilon of each target's probability is spread evenly over the vocabulary, so that no log-prob is driven to 0.

    loss_t = - (1 - epsilon) log p(y_t) - epsilon * (1/V) sum_v log p(v)

Szegedy et al. 2016, arXiv 1512.00567, section 7; epsilon = 0.1 there. V counts the rows of the output layer, padding too, as
torch.nn.functional.cross_entropy(label_smoothing=epsilon) does on its logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives.nll import NLL
from tempering.types import Context, Parts, Signals

FAMILY = "tokens"
CONFUSED_WITH = {"label smoothing of DPO (cDPO)": "takes a pair for flipped with that probability, see dpo.py"}


@dataclass(frozen=True)
class LabelSmoothing(NLL):
    """Cross-entropy with a mixture of the target and the uniform distribution."""

    epsilon: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the uniform distribution; 0 is plain cross-entropy."""

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {self.part: frozenset({"logp", "mean_logp"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        found = signals[self.part]
        return -(1 - self.epsilon) * found["logp"] - self.epsilon * found["mean_logp"]


CASES = (
    Case(
        "a fifth of each target spread: weighted sums of the log-probs 4 and 16, of the means 14 and 18",
        LabelSmoothing(epsilon=0.2),
        {"train": {"logp": [[-1, -2, -4], [-8]], "mean_logp": [[-7, -10, -8], [-9]]}},
        weights={"train": [[0, 1, 0.5], [2]]},
        loss=(0.8 * (4 + 16) + 0.2 * (14 + 18)) / 3.5,
        gradient={
            "train/logp": [[0, -0.8 / 3.5, -0.4 / 3.5], [-1.6 / 3.5]],
            "train/mean_logp": [[0, -0.2 / 3.5, -0.1 / 3.5], [-0.4 / 3.5]],
        },
    ),
)
