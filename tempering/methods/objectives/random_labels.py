"""Random labels: the tokens of a forget row keep their place and lose their meaning, as each is learned under a label drawn at random.

    loss_t = - log p(a_t | y_<t),   a_t ~ q_t;      soft: loss_t = - sum_v q_t(v) log p(v | y_<t)

Yao et al. 2024, arXiv 2402.15159 (S084), "fine-tuning with random labels": q is uniform over the vocabulary. Also as in the authors' code: q the
starting model's own distribution, all of it or its top_k or top_p, with the true token in it or not. A label is drawn once: it goes by the column
"noise" of the forget rows, a number in [0, 1) for each token, and is the token at which q's cumulative sum passes it. "soft" is the mean of the loss
over all draws. top_k = 1 without the true token is `adversarial_labels`.
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
from tempering.methods.objectives._forgetting import Forgetting, RetainLoss, row
from tempering.types import Context, Norm, Parts, Signals

FAMILY = "forget"
CATALOGUE = ("S084",)
CONFUSED_WITH = {"adversarial_labels": "takes the likeliest wrong token", "undial": "lowers the logit of the true token"}


@dataclass(frozen=True)
class RandomLabels(Forgetting):
    """Negative log-likelihood of random tokens in the place of the answer's."""

    labels: Literal["uniform", "own"] = "uniform"
    """What labels are drawn from: the whole vocabulary alike, or the starting model's distribution."""
    soft: bool = False
    """Learn the distribution itself instead of a token drawn from it."""
    without_true: bool = False
    """Never draw the true token."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Of the own distribution: the likeliest tokens alone; 0 takes all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of the own distribution: the likeliest tokens until their sum passes it."""
    norm: Norm = "tokens"
    """What the forget term is divided by."""
    retain_loss: RetainLoss = "none"
    """The paper has no retain term beside it."""
    per = "token"

    @property
    def reads(self) -> Mapping[str, frozenset[str]]:
        own = {"reference.logits"} if self.labels == "own" else set()
        return {"forget": frozenset({"logits"} | own | (set() if self.soft else {"noise"}))}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        s, ids_T1 = signals["forget"], parts["forget"].ids_T.long()[:, None]
        logp_TV = s["logits"].log_softmax(-1)
        z_TV = s["reference.logits"] if self.labels == "own" else torch.zeros_like(logp_TV)
        if self.without_true:
            z_TV = z_TV.scatter(1, ids_T1, -torch.inf)
        if self.top_k:
            z_TV = torch.where(z_TV < z_TV.topk(min(self.top_k, z_TV.size(1))).values.amin(-1, keepdim=True), -torch.inf, z_TV)
        if self.top_p < 1:
            q_TV = z_TV.softmax(-1).sort(descending=True).values
            least_T1 = torch.where(q_TV.cumsum(-1) - q_TV <= self.top_p, q_TV, torch.inf).amin(-1, keepdim=True)
            z_TV = torch.where(z_TV.softmax(-1) < least_T1, -torch.inf, z_TV)
        q_TV = z_TV.softmax(-1)
        if self.soft:
            return -(q_TV * logp_TV).sum(-1)
        label_T1 = (q_TV.cumsum(-1) > s["noise"][:, None]).int().argmax(-1, keepdim=True)
        return -logp_TV.gather(-1, label_T1)[:, 0]


_ROWS = {"logits": [[row(t3=0.5, t1=0.2), [v - 2 for v in row(t4=0.25, t2=0.5)]], [row(t5=0.1, t7=0.3)]]}
_OWN = {"reference.logits": [[row(t3=0.5, t1=0.2, t0=0.15), [v + 9 for v in row(t4=0.25, t2=0.5, t8=0.125)]], [row(t5=0.6, t7=0.1, t9=0.2)]]}
_W = {"forget": [[1.0, 0.5], [2.0]]}

EQUIVALENT = {"__call__:constant:2": "a top_p of 1 that is looked at keeps every token"}

CASES = (
    Case(
        "uniform: tokens 1, 2 and 9, and the true one is possible",
        RandomLabels(),
        {"forget": {**_ROWS, "noise": [[0.15, 0.25], [0.95]]}},
        weights=_W,
        loss=-(math.log(0.2) + 0.5 * math.log(0.5) + 2 * math.log(0.6 / 8)) / 3.5,
    ),
    Case(
        "uniform without the true token: 3 lies between 2 and 4",
        RandomLabels(without_true=True, retain_loss="nll"),
        {"forget": {**_ROWS, "noise": [[0.34, 0.32], [0.6]]}, "retain": {"logp": [[-1.0, -3.0]]}},
        weights=_W,
        loss=-(math.log(0.3 / 8) + 0.5 * math.log(0.5) + 2 * math.log(0.6 / 8)) / 3.5 + 2,
    ),
    Case(
        "soft, the starting model's likeliest two, of which one may be the true token",
        RandomLabels(labels="own", soft=True, top_k=2, weight=0.5),
        {"forget": {**_ROWS, **_OWN}},
        weights=_W,
        loss=-0.5
        * (
            5 / 7 * math.log(0.5) + 2 / 7 * math.log(0.2)
            + 0.5 * (2 / 3 * math.log(0.5) + 1 / 3 * math.log(0.25))
            + 2 * (0.75 * math.log(0.1) + 0.25 * math.log(0.6 / 8))
        )
        / 3.5,
    ),
    Case(
        "drawn from the likeliest until their sum passes 0.55: of two tokens, of two, of one; top_k beyond the vocabulary takes all",
        RandomLabels(labels="own", top_p=0.55, top_k=50),
        {"forget": {**_ROWS, **_OWN, "noise": [[0.2, 0.7], [0.9]]}},
        weights=_W,
        loss=-(math.log(0.2) + 0.5 * math.log(0.25) + 2 * math.log(0.1)) / 3.5,
    ),
)  # fmt: skip
