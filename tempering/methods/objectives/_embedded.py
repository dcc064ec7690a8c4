"""What losses on the embeddings of answers share: pooling, the whole step's embeddings, and a gradient that does not depend on the micro-batches.

A loss of this family compares every answer of the step with every other. `stats` gathers all embeddings without gradient; a micro-batch then puts its
own back with gradient and computes the losses of the *whole* step. Its own answers appear there as anchors and as what others are compared with, so
the slope of the sum with respect to them is exact, and micro-batches (and processes) add up to the step's gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tempering.reduce import last, segment_mean, segment_weight
from tempering.types import Context, Objective, Parts, Signals


@dataclass(frozen=True)
class Embedded(Objective):
    """Base of losses on unit vectors [S, H], one for each answer, and their classes: the column "label" [S], any numbers."""

    pool: Literal["mean", "last"] = "mean"
    """The mean of the last layer's states over the answer's scored tokens, or the state at the last of them."""
    norm = "segments"
    part = "train"
    per = "segment"
    couples = "gather"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"train": frozenset({"hidden", "label"})}

    def losses(self, near_SS: Tensor, same_SS: Tensor, other_SS: Tensor) -> Tensor:
        """Losses [S] of the whole step.

        Args:
            near_SS: cosines of all pairs.
            same_SS, other_SS: which pairs of different scored answers are of one class, and of two.
        """
        raise NotImplementedError

    def stats(self, parts: Parts, signals: Signals) -> Mapping[str, Tensor]:
        """Each answer's embedding, class, and whether it is scored at all."""
        found = (self._embedding(parts, signals), self.classes(parts, signals), segment_weight(parts[self.part]) != 0)
        return dict(zip(("embedding", "label", "scored"), found, strict=True))

    def _embedding(self, parts: Parts, signals: Signals) -> Tensor:
        pool = segment_mean if self.pool == "mean" else last
        return F.normalize(pool(signals[self.part]["hidden"], parts[self.part]), dim=-1)

    def classes(self, parts: Parts, signals: Signals) -> Tensor:
        """The answers' classes [S]."""
        return signals[self.part]["label"]

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        embedding_SH = ctx.joined("embedding", self._embedding(parts, signals))
        label_S, scored_S = ctx.stats["label"], ctx.stats["scored"]
        pair_SS = (scored_S[:, None] & scored_S[None]).fill_diagonal_(False)
        alike_SS = label_S[:, None] == label_S[None]
        losses_S = self.losses(embedding_SH @ embedding_SH.T, pair_SS & alike_SS, pair_SS & ~alike_SS)
        return own(losses_S, scored_S, ctx)


def own(losses_S: Tensor, scored_S: Tensor, ctx: Context) -> Tensor:
    """This micro-batch's entries of the whole step's losses; the slope, which the first of them carries, is that of all losses they appear in."""
    whole, mine_S = losses_S.sum(), scored_S[ctx.mine]
    return losses_S[ctx.mine].detach() + torch.where(mine_S & (mine_S.cumsum(0) == mine_S), whole - whole.detach(), 0.0)


EQUIVALENT = {
    "_embedding:negate:1": "a loss sees products of two embeddings, and both have the sign",
    "classes:negate:1": "classes are only compared with each other",
}
