"""What losses on ranked answers share: part "responses", a column "score" per answer, and who is better than whom within a prompt.

A higher score is better; equal scores say nothing, so the order may be partial. Losses are per answer and are divided by the number of prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tempering.reduce import group_rank, segment_weight
from tempering.types import Batch, Context, Objective, Parts, Signals


@dataclass(frozen=True)
class Listed(Objective):
    """Base of losses on the scored answers of a prompt; a subclass writes `loss`."""

    norm = "groups"
    part = "responses"
    per = "segment"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"responses": frozenset({"logp", "score"})}

    def loss(self, batch: Batch, signals: Mapping[str, Tensor], better_SS: Tensor, ctx: Context) -> Tensor:
        """Losses [S]; `better_SS[i, j]` is True where answer i is preferred to answer j."""
        raise NotImplementedError

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        batch, found = parts["responses"], signals["responses"]
        return self.loss(batch, found, together(batch) & (found["score"][:, None] > found["score"][None, :]), ctx)

    def log_order(self, ctx: Context, value_S: Tensor, better_SS: Tensor) -> None:
        """Log the answers' values, and how many of the ordered pairs they put in the right order."""
        ctx.log(value=value_S, accuracy=(value_S[:, None] > value_S[None, :])[better_SS].float())


def together(batch: Batch) -> Tensor:
    """[S, S]: both answers are scored and belong to one prompt."""
    scored_S = segment_weight(batch) != 0
    return (batch.group_S[:, None] == batch.group_S[None, :]) & scored_S[:, None] & scored_S[None, :]


def place(value_S: Tensor, batch: Batch) -> Tensor:
    """[S]: each answer's place in its prompt by falling value, 0 for the highest; equal ones by their order, answers without scored tokens last."""
    return group_rank(torch.where(segment_weight(batch) != 0, value_S, -torch.inf), batch)


def best(score_S: Tensor, batch: Batch) -> Tensor:
    """[S]: the first of the answers of each prompt with the highest score."""
    return place(score_S, batch) == 0


# Two prompts that hand-worked cases share: three answers, then two. Log-probs -1.2, -1.5, -1.0 and -0.5, -2.5; lengths 2, 1.5, 1 and 1, 3.
LISTS = {
    "responses": {
        "logp": [[-0.8, -0.4], [-1.0, -1.0, -7.0], [-1.0], [-0.5], [-0.5, -1.2, -0.8]],
        "reference.logp": [[-1.0, -0.5], [-0.6, -0.8, -3.0], [-1.2], [-0.7], [-1.0, -1.2, -0.9]],
        "score": [3.0, 2.0, 1.0, 0.2, 0.9],
    }
}
"""Log-ratios: 0.3, -0.5, 0.2 and 0.2, 0.6."""
LIST_WEIGHTS = {"responses": [[1.0, 1.0], [1.0, 0.5, 0.0], [1.0], [1.0], [1.0, 1.0, 1.0]]}
LIST_GROUPS = {"responses": [0, 0, 0, 1, 1]}
