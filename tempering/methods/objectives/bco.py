"""Binary classifier optimisation: answers marked desirable or not, on the right side of a moving threshold of the implicit reward.

    loss = - log sigmoid(r - d) if desirable, - log sigmoid(-(r - d)) if not;   r = beta * log pi / pi_ref (y | x)
    d = ( E[r | desirable] + E[r | not] ) / 2

Jung et al. 2024, arXiv 2404.04656, equations 12 and 13, and appendix C for beta = 0.01. The two expectations are running means over the steps, this
one among them, without gradient; of a side that was not seen yet there is none to take. The paper's density ratio for prompts that differ between
the two sides (section 4.2) is left out. On pairs see `bco_pair`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._paired import softplus
from tempering.reduce import segment_sum, segment_weight
from tempering.types import Context, Objective, Parts, Signals

FAMILY = "unpaired"
PAPER = {"optimizer.lr": "5e-7 (appendix C)"}
CONFUSED_WITH = {"bco_pair": "the same classifier on chosen and rejected answers of one prompt"}


@dataclass(frozen=True)
class BCO(Objective):
    """A classifier of answers by implicit reward, with a running threshold."""

    beta: Annotated[float, Field(gt=0)] = 0.01
    """Scale of the implicit reward."""
    norm = "segments"
    per = "segment"
    couples = "sums"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"train": frozenset({"logp", "reference.logp", "label"})}

    def _reward(self, parts: Parts, signals: Signals) -> Tensor:
        s = signals["train"]
        return self.beta * segment_sum(s["logp"] - s["reference.logp"], parts["train"])

    def stats(self, parts: Parts, signals: Signals) -> Mapping[str, Tensor]:
        """Sum and number of the rewards of undesirable and desirable answers [2]."""
        good_S, scored_S = signals["train"]["label"] > 0, segment_weight(parts["train"]) != 0
        side_2S = torch.stack([~good_S & scored_S, good_S & scored_S]).double()
        return {"reward": side_2S @ self._reward(parts, signals).double(), "answers": side_2S.sum(1)}

    def initial(self) -> Mapping[str, Tensor]:
        return {name: torch.zeros(2, dtype=torch.float64) for name in ("reward", "answers")}

    def advance(self, state: Mapping[str, Tensor], stats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {name: state[name] + stats[name] for name in state}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        seen_2 = (ctx.state["answers"] > 0).double()
        mean_2 = ctx.state["reward"] / ctx.state["answers"].clamp(min=1)
        reward_S, good_S = self._reward(parts, signals), signals["train"]["label"] > 0
        threshold = (mean_2.sum() / seen_2.sum()).to(reward_S)
        ctx.log(reward=reward_S, threshold=threshold.expand_as(reward_S), accuracy=((reward_S > threshold) == good_S).float())
        return -F.logsigmoid(torch.where(good_S, reward_S - threshold, threshold - reward_S))


CASES = (
    # Rewards 0.75 (good), -0.25 and 1 (bad): means 0.75 and 0.375, a threshold of 0.5625.
    Case(
        "one good answer and two bad ones, the second on the wrong side; an unscored token and an unscored answer count for nothing",
        BCO(beta=0.5),
        {
            "train": {
                "logp": [[-1.0, -0.5, 7.0], [-2.0], [-1.0], [-3.0]],
                "reference.logp": [[-1.5, -1.5, 0.0], [-1.5], [-3.0], [-1.0]],
                "label": [1.0, 0.0, 0.0, 1.0],
            }
        },
        weights={"train": [[1, 1, 0], [1], [1], [0]]},
        groups={"train": [0, 0, 1, 1]},
        loss=(softplus(-0.1875) + softplus(-0.8125) + softplus(0.4375)) / 3,
        logs={"reward": 1.5 / 4, "threshold": 0.5625, "accuracy": 0.5},
    ),
    Case(
        "only bad answers so far: their own mean is the threshold",
        BCO(beta=1.0),
        {"train": {"logp": [[-1.0], [-1.0]], "reference.logp": [[-2.0], [-4.0]], "label": [0.0, 0.0]}},
        loss=(softplus(-1.0) + softplus(1.0)) / 2,
    ),
    Case(
        "means of all steps: 3 and 1 good answers worth 1 and 5, one bad of -1 before",
        BCO(beta=1.0),
        {"train": {"logp": [[-1.0]], "reference.logp": [[-6.0]], "label": [1.0]}},
        state={"reward": [-1.0, 3.0], "answers": [1.0, 3.0]},
        loss=softplus(-(5.0 - (8 / 4 - 1) / 2)),
        logs={"threshold": 0.5, "accuracy": 1.0},
    ),
)
