"""Nash-MD-PG: raise what is preferred to the answers of an opponent near the policy, and stay near the reference.

    loss = - ( P(y > y' | x) - 1/2 - tau * log(pi / mu)(y) ) * log pi(y),   the bracket without gradient

Munos et al. 2023, arXiv 2312.00886 (NLHF; S051), section 7: y is the policy's own answer and y' an opponent's, from the token-wise geometric mixture
pi^(1 - b) mu^b (`methods/decodes/geometric.py`). **Nash-EMA-PG is the same loss**, with y' from the moving average of the policy's weights. The
log-ratio in the bracket is the sampled form of tau * KL(pi || mu), whose slope is the same on average; the paper also has it over the whole
vocabulary at each token, which is not here. Given samples are learned from here; drawing new ones at each step is not. tau = 0.008 is recalled, not
checked.

The column "score" of the part "responses" is P(y > y'), or any reward: then P is the mean of sigmoid(score - score') over the prompt's other answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.reduce import segment_sum, segment_weight
from tempering.types import Context, Objective, Parts, Signals

FAMILY = "ranked"
CATALOGUE = ("S051",)


@dataclass(frozen=True)
class NashMD(Objective):
    """Policy gradient of the preference over an opponent, regularised towards the reference."""

    tau: Annotated[float, Field(ge=0)] = 0.008
    """Strength of the pull towards the reference."""
    scores: Literal["rewards", "preferences"] = "rewards"
    """What the answers' scores are: rewards on any scale, or the probability that each is preferred to its opponent's."""
    norm = "segments"
    part = "responses"
    per = "segment"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"responses": frozenset({"logp", "reference.logp", "score"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        batch, s = parts["responses"], signals["responses"]
        logp_S, score_S = segment_sum(s["logp"], batch), s["score"]
        ratio_S = (logp_S - segment_sum(s["reference.logp"], batch)).detach()
        if self.scores == "rewards":
            scored_S = segment_weight(batch) != 0
            among_SS = ((batch.group_S[:, None] == batch.group_S[None]) & scored_S[None]).fill_diagonal_(False)
            wins_SS = torch.where(among_SS, torch.sigmoid(score_S[:, None] - score_S[None]), 0.0)
            # Who has no other is as good as its opponent.
            score_S = (wins_SS.sum(1) / among_SS.sum(1)).nan_to_num(0.5)
        ctx.log(value=ratio_S, preference=score_S)
        return -(score_S - 0.5 - self.tau * ratio_S) * logp_S


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# Log-probs -3.5 (by weight -2.5), -1.5 and -0.25; log-ratios 0.25 (by weight 0.75), -0.5 and 1.
_THREE = {"logp": [[-1.0, -2.0, -7.0], [-1.5], [-0.25]], "reference.logp": [[-2.5, -0.5, -9.0], [-1.0], [-1.25]]}
_WEIGHTS = {"responses": [[1.0, 0.5, 0.0], [1.0], [1.0]]}
_FIRST, _SECOND = (_sigmoid(1.5) + _sigmoid(-0.5)) / 2, (_sigmoid(-1.5) + _sigmoid(-2.0)) / 2
_THIRD = (_sigmoid(0.5) + _sigmoid(2.0)) / 2

CASES = (
    Case(
        "preferences as given; the log-ratio counts against an answer that the policy already likes better",
        NashMD(tau=0.5, scores="preferences"),
        {"responses": _THREE | {"score": [0.9, 0.2, 0.5]}},
        weights=_WEIGHTS,
        loss=((0.4 - 0.5 * 0.75) * 2.0 + (-0.3 + 0.25) * 1.5 + (0 - 0.5) * 0.25) / 3,
        gradient={"responses/logp": [[-(0.4 - 0.375) / 3, -(0.4 - 0.375) / 6, 0], [-(-0.3 + 0.25) / 3], [0.5 / 3]]},
        logs={"value": (0.75 - 0.5 + 1.0) / 3, "preference": 1.6 / 3},
    ),
    Case(
        "rewards 1, -0.5 and 1.5 of one prompt: an answer against the two others; one alone, and one that is not scored, win by half",
        NashMD(tau=0.5),
        {
            "responses": {
                "logp": [*_THREE["logp"], [-2.0], [-3.0]],
                "reference.logp": [*_THREE["reference.logp"], [-2.5], [-3.0]],
                "score": [1.0, -0.5, 1.5, 7.0, 9.0],
            }
        },
        weights={"responses": [*_WEIGHTS["responses"], [1.0], [0.0]]},
        groups={"responses": [0, 0, 0, 1, 0]},
        loss=((_FIRST - 0.5 - 0.375) * 2.0 + (_SECOND - 0.5 + 0.25) * 1.5 + (_THIRD - 0.5 - 0.5) * 0.25 + (0 - 0.25) * 2.0) / 4,
    ),
)
