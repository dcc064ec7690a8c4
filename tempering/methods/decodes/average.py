"""Decoding from the average of several models' predictions: p = mean_k p_k at every token, so that each of them has one vote.

How Bourtoule et al. 2019 (SISA, arXiv 1912.03817, section 4) aggregate models that were trained on separate shards. Their classifiers vote once for
each input, by label or by the mean of prediction vectors; here the mean is taken at every token. It is `mixture` for any number of models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Average:
    """log of the mean of p_policy and the others' p, [R, V]."""

    others: tuple[str, ...] = ()
    """The roles of the other models; without any the policy is alone."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "others", tuple(self.others))

    @property
    def roles(self) -> tuple[str, ...]:
        return self.others

    def __call__(self, tokens_RL: Tensor, logits: Mapping[str, Tensor]) -> Tensor:
        import torch

        every = torch.stack([logits[role].log_softmax(-1) for role in ("policy", *self.others)])
        return every.logsumexp(0) - math.log(len(every))
