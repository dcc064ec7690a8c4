"""What losses on pairs of answers share: log-ratios, what is logged, and the options that go with every such loss.

A loss of this family is a class on `Paired` (any function of the two log-ratios) or `Contrast` (a function of their difference, so that another
f-divergence may stand between policy and reference), its fields, and one formula: `loss`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tempering.errors import UserError
from tempering.methods.objectives.nll import NLL
from tempering.reduce import segment_mean, segment_sum, segment_weight
from tempering.types import Batch, Coefficient, Context, Norm, Objective, Parts, Signals

Divergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]
SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Pairs:
    """Chosen and rejected answers, pair by pair, all [S]: log-ratios to the reference, log-probs of the policy, lengths (sums of weights),
    and what the margin must be above before it counts."""

    chosen: Tensor
    rejected: Tensor
    chosen_logp: Tensor
    rejected_logp: Tensor
    chosen_length: Tensor
    rejected_length: Tensor
    offset: Tensor | float = 0.0


@dataclass(frozen=True)
class Paired(Objective):
    """Base of losses on parts "chosen" and "rejected", whose segments are aligned: segment s of one was preferred to segment s of the other."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the pull towards the reference."""
    reference_free: bool = False
    """Take the reference for uniform: log-ratios are log-probs, and no reference is computed."""
    ld_alpha: float = 1.0
    """LD-DPO (arXiv 2409.06411, eq. 10): what tokens past the shorter answer's length count for; 1 is off."""
    weighting: bool = False
    """WPO (arXiv 2406.11827, eq. 2): weigh a pair by how likely the policy would write it, see `wpo.py`."""
    sft: float = 0.0
    """Weight of an added negative log-likelihood of the chosen answers; a term of its own with its own divisor, `sft_norm`, that `weighting` leaves
    alone."""
    sft_norm: Norm = "tokens"
    """What that likelihood is divided by."""
    norm = "segments"
    part = "chosen"
    per = "segment"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        names = {"logp"} | ({"reference.logp"} if not self.reference_free else set()) | ({"logsumexp2"} if self.weighting else set())
        return dict.fromkeys(SIDES, frozenset(names))

    def terms(self) -> tuple[tuple[Coefficient, Objective], ...]:
        return ((1.0, self), (self.sft, NLL("chosen", norm=self.sft_norm))) if self.sft else ((1.0, self),)

    def loss(self, pair: Pairs, ctx: Context) -> Tensor:
        """Losses [S] of the pairs."""
        raise NotImplementedError

    def total(self, x_T: Tensor, batch: Batch) -> Tensor:
        """How per-token log-probs [T] become an answer's [S]."""
        return segment_sum(x_T, batch)

    def pairs(self, parts: Parts, signals: Signals) -> Pairs:
        """Log-ratios, log-probs and lengths of a micro-batch's pairs."""
        found: dict[str, Tensor] = {}
        keep_T = tails(parts, self.ld_alpha)
        for side in SIDES:
            logp_S = self.total(signals[side]["logp"] * keep_T[side], parts[side])
            reference_S = 0.0 if self.reference_free else self.total(signals[side]["reference.logp"] * keep_T[side], parts[side])
            found |= {side: logp_S - reference_S, f"{side}_logp": logp_S, f"{side}_length": length(parts[side])}
        return Pairs(**found)

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        pair = self.pairs(parts, signals)
        margin_S = self.beta * (pair.chosen - pair.rejected)
        ctx.log(margin=margin_S, accuracy=(margin_S > 0).float(), chosen_logp=pair.chosen_logp, rejected_logp=pair.rejected_logp)
        ctx.log(chosen_reward=self.beta * pair.chosen, rejected_reward=self.beta * pair.rejected)
        losses_S = self.loss(pair, ctx)
        return losses_S * likelihood(parts, signals) if self.weighting else losses_S


@dataclass(frozen=True)
class Contrast(Paired):
    """Base of losses that see a pair only through the difference of its two scores."""

    divergence: Divergence = "reverse_kl"
    """f-DPO (arXiv 2309.16240): an answer's score is f'(policy / reference); "reverse_kl" makes it the log-ratio. See `f_dpo.py`."""
    divergence_alpha: float = 0.5
    """The exponent of "alpha_divergence"."""
    average: bool = False
    """Divide an answer's score by its length in tokens."""

    def __post_init__(self) -> None:
        if self.divergence not in get_args(Divergence):
            raise UserError(f"divergence is {self.divergence!r}; it is one of {', '.join(get_args(Divergence))}")

    def delta(self, pair: Pairs) -> Tensor:
        """Score of the chosen answer less that of the rejected one [S]."""
        chosen_S, rejected_S = self.score(pair.chosen), self.score(pair.rejected)
        return chosen_S / pair.chosen_length - rejected_S / pair.rejected_length if self.average else chosen_S - rejected_S

    def margin(self, pair: Pairs) -> Tensor:
        """What a loss wants large [S]."""
        return self.beta * self.delta(pair) - pair.offset

    def score(self, ratio_S: Tensor) -> Tensor:
        """f'(t) of log t [S] (f-DPO, table 1); 0 at the reference."""
        if self.divergence == "forward_kl":
            return 1 - torch.exp(-ratio_S)
        if self.divergence == "js_divergence":
            return math.log(2) + F.logsigmoid(ratio_S)
        if self.divergence == "alpha_divergence" and self.divergence_alpha != 1:
            # exp stays finite; alpha -> 1 is the log-ratio.
            power = self.divergence_alpha - 1
            return torch.expm1((power * ratio_S).clamp(max=80.0)) / power
        return ratio_S


def length(batch: Batch) -> Tensor:
    """Sum of the token weights of each answer [S]; 1 for an answer without scored tokens."""
    weight_S = segment_weight(batch)
    return torch.where(weight_S == 0, 1.0, weight_S)


def tails(parts: Parts, alpha: float) -> Mapping[str, Tensor]:
    """side -> factor [T]: 1 for as many scored tokens as the shorter answer of the pair has, `alpha` for those after."""
    scored = {side: (parts[side].weight_T != 0).float() for side in SIDES}
    count = {side: torch.zeros(parts[side].num_segments, device=x_T.device).index_add(0, parts[side].segment_T, x_T) for side, x_T in scored.items()}
    shared_S = torch.minimum(count["chosen"], count["rejected"])
    factors = {}
    for side, batch in ((side, parts[side]) for side in SIDES):
        before_S = count[side].cumsum(0) - count[side]
        place_T = scored[side].cumsum(0) - before_S[batch.segment_T]
        factors[side] = torch.where(place_T > shared_S[batch.segment_T], alpha, 1.0)
    return factors


def likelihood(parts: Parts, signals: Signals) -> Tensor:
    """WPO's weight of a pair [S], no gradient: the product of both answers' exp(mean_t(log p_t - log sum_v p_v^2))."""
    weight_S = torch.ones(parts["chosen"].num_segments, device=parts["chosen"].weight_T.device)
    for side in SIDES:
        aligned_T = (signals[side]["logp"] - signals[side]["logsumexp2"]).detach()
        weight_S = weight_S * segment_mean(aligned_T, parts[side]).exp()
    return weight_S


# Two pairs that hand-worked cases share. Log-ratios: chosen 0.5 and -0.4, rejected -1.0 and 0.8. Lengths: chosen 1.5 and 1, rejected 1 and 2.
EXAMPLE = {
    "chosen": {"logp": [[-1.0, -2.0, -0.5], [-1.5]], "reference.logp": [[-1.2, -2.6, -9.0], [-1.1]]},
    "rejected": {"logp": [[-2.0], [-0.7, -0.6]], "reference.logp": [[-1.0], [-1.0, -1.1]]},
}
WEIGHTS = {"chosen": [[1.0, 0.5, 0.0], [1.0]], "rejected": [[1.0], [1.0, 1.0]]}


def softplus(x: float) -> float:
    """log(1 + e^x) = -log sigmoid(-x), for hand-worked cases."""
    return math.log1p(math.exp(x))
