"""Direct preference optimisation: the policy's implicit reward of the chosen answer over the rejected one, relative to a frozen reference.

    loss = - log sigmoid( beta * [ (log pi - log pi_ref)(y_w | x) - (log pi - log pi_ref)(y_l | x) ] )

Rafailov et al. 2023, arXiv 2305.18290, equation 7; beta = 0.1 is the paper's default (appendix B). Log-probs are sums over the answer's tokens.
`label_smoothing` is the conservative variant (Mitchell 2023): the pair is taken as flipped with that probability.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.reduce import segment_sum
from tempering.types import Context, Objective, Parts, Signals

FAMILY = "pairs"


@dataclass(frozen=True)
class DPO(Objective):
    """Sigmoid loss on the margin between chosen and rejected."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the pull towards the reference (paper, appendix B)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Probability that a pair is labelled the wrong way round; 0 is the paper's loss."""
    norm = "segments"
    part = "chosen"
    per = "segment"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {part: frozenset({"logp", "reference.logp"}) for part in ("chosen", "rejected")}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        logp_S = {part: segment_sum(signals[part]["logp"], parts[part]) for part in self.needs}
        ratio_S = {part: logp_S[part] - segment_sum(signals[part]["reference.logp"], parts[part]) for part in self.needs}
        margin_S = self.beta * (ratio_S["chosen"] - ratio_S["rejected"])
        ctx.log(margin=margin_S, accuracy=(margin_S > 0).float(), chosen_logp=logp_S["chosen"], rejected_logp=logp_S["rejected"])
        ctx.log(chosen_reward=self.beta * ratio_S["chosen"], rejected_reward=self.beta * ratio_S["rejected"])
        return -(1 - self.label_smoothing) * F.logsigmoid(margin_S) - self.label_smoothing * F.logsigmoid(-margin_S)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


CASES = (
    Case(
        "one pair in the right order: the ratios are 2 and -3, the margin is 0.1 * 5",
        DPO(),
        {"chosen": {"logp": [[-1, -2]], "reference.logp": [[-2, -3]]}, "rejected": {"logp": [[-4]], "reference.logp": [[-1]]}},
        loss=math.log1p(math.exp(-0.5)),
        gradient={"chosen/logp": [[-0.1 * _sigmoid(-0.5)] * 2], "rejected/logp": [[0.1 * _sigmoid(-0.5)]]},
        logs={"margin": 0.5, "accuracy": 1, "chosen_logp": -3, "rejected_logp": -4, "chosen_reward": 0.2, "rejected_reward": -0.3},
    ),
    Case(
        "two pairs of one prompt in the wrong order, margins -0.5 and -3.25, and one whose chosen answer is not scored; smoothed",
        DPO(beta=0.5, label_smoothing=0.2),
        {
            "chosen": {"logp": [[-1, -2, -4], [-0.5, -3], [-7]], "reference.logp": [[-9, -1, -2], [-2, -1], [-8]]},
            "rejected": {"logp": [[-3], [-1, -1.5], [-2]], "reference.logp": [[-2], [-3, -3.5], [-5]]},
        },
        weights={"chosen": [[0, 1, 0.5], [1, 2], [0]]},
        groups={"chosen": [0, 0, 1], "rejected": [0, 0, 1]},
        loss=sum(0.8 * math.log1p(math.exp(-m)) + 0.2 * math.log1p(math.exp(m)) for m in (-0.5, -3.25)) / 2,
        gradient={
            "chosen/logp": [
                [w * 0.25 * (0.2 * _sigmoid(-0.5) - 0.8 * _sigmoid(0.5)) for w in (0, 1, 0.5)],
                [w * 0.25 * (0.2 * _sigmoid(-3.25) - 0.8 * _sigmoid(3.25)) for w in (1, 2)],
                [0],
            ]
        },
        logs={"margin": (-0.5 - 3.25 - 1.5) / 3, "accuracy": 0, "chosen_reward": 0.5 * (-2 - 2.5 + 0) / 3, "rejected_reward": 0.5 * (-1 + 4 + 3) / 3},
    ),
)
