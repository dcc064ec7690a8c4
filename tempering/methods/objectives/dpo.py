"""Direct preference optimisation: the policy's implicit reward of the chosen answer over the rejected one, relative to a frozen reference.

    loss = - log sigmoid( beta * [ (log pi - log pi_ref)(y_w | x) - (log pi - log pi_ref)(y_l | x) ] )

Rafailov et al. 2023, arXiv 2305.18290, equation 7; beta = 0.1 is the paper's default (appendix B). Log-probs are sums over the answer's tokens.
`label_smoothing` is the conservative variant (Mitchell 2023): the pair is taken as flipped with that probability.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

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
