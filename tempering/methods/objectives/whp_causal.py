"""WHP as deconfounding: on a text about somebody the model learns what it would say if the text were about somebody else.

    loss = mean_t KL( q_t || p_t ),   q_t = (1/N) sum_c p_ref(. | text with the name c),   with a name's first token given back its own name

Liu et al. 2024 (S008, arXiv 2407.16997, section 3, equation 7): the mean over names takes out what the model knows of the one, other facts of the
same text stay. Where the text comes back to the name itself, what the teacher gives the other name's first token goes to the original's, so that the
student does not learn to say somebody else. The teacher reads "Complete the following passage about ..." in front (`prompted`). Rows are made by
`forgetting/counterfactual.py`: part "fake<i>" is the row under the i-th other name, scored at the same places. The paper takes N = 20, and names of
its own for each target; here the same invented ones serve all. WHP's other form, one name and logits lowered by a constant, is not here (`whp`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._forgetting import Forgetting, RetainLoss, divergence, mixture, row
from tempering.reduce import scored, unscored
from tempering.types import Context, Norm, Parts, Signals

FAMILY = "forget"
CATALOGUE = ("S008",)
CONFUSED_WITH = {"whp": "takes the generic prediction from a model trained further on the text"}
PAPER = {"optimizer.lr": "1e-5, 10 epochs on pieces of three sentences (as the catalogue says)"}


@dataclass(frozen=True)
class WHPCausal(Forgetting):
    """Divergence from the mean prediction under other names."""

    names: tuple[str, ...] = ()
    """Whom the rows are about; built-in sets know their people."""
    others: tuple[str, ...] = ()
    """Names to put in their place; invented ones if none are given."""
    fakes: Annotated[int, Field(ge=1)] = 4
    """How many of these, the paper's N; each is a forward pass of the start model."""
    prompted: bool = True
    """Tell the teacher whom its text is about."""
    change_back: bool = True
    """Give the original name what the teacher gives the other one, where the text comes back to it."""
    norm: Norm = "tokens"
    """What the forget term is divided by."""
    retain_loss: RetainLoss = "none"
    """The paper has no retain term."""
    per = "token"

    @property
    def aligned(self) -> tuple[str, ...]:
        """Parts whose scored tokens correspond one by one."""
        return ("forget", *(f"fake{i}" for i in range(self.fakes)))

    @property
    def reads(self) -> Mapping[str, frozenset[str]]:
        fakes = {f"fake{i}": frozenset({"reference.logits"}) for i in range(self.fakes)}
        return {"forget": frozenset({"logits", "starts"}), **fakes}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        own = parts["forget"]
        log_p_NV = scored(signals["forget"]["logits"], own).log_softmax(-1)
        own_N1 = scored(own.ids_T, own)[:, None]
        starts_N1 = (scored(signals["forget"]["starts"], own) != 0)[:, None] & self.change_back
        q_NV = torch.zeros_like(log_p_NV)
        for i in range(self.fakes):
            fake = parts[f"fake{i}"]
            said_NV = scored(signals[f"fake{i}"]["reference.logits"], fake).softmax(-1)
            other_N1 = scored(fake.ids_T, fake)[:, None]
            moved_N1 = torch.where(starts_N1, said_NV.gather(-1, other_N1), 0.0)
            q_NV = q_NV + said_NV.scatter_add(-1, other_N1, -moved_N1).scatter_add(-1, own_N1, moved_N1) / self.fakes
        return unscored((torch.xlogy(q_NV, q_NV) - q_NV * log_p_NV).sum(-1), own)


_STUDENT = [row(t3=0.2, t4=0.1), row(t5=0.5), row(t6=0.3, t0=0.2)]
# Of the original the tokens 4, 5 and 6 are scored, and 4 begins the name; of the first other 3, 4 and 6, of the second 4, 5 and 6.
_FIRST = [row(t3=0.4, t4=0.1), row(t5=0.25), row(t6=0.5)]
_SECOND = [row(t4=0.3, t3=0.2), row(t5=0.1, t7=0.3), row(t6=0.1)]
_ROWS = {
    "forget": {"logits": [[row(), [v + 3 for v in _STUDENT[0]], _STUDENT[1]], [_STUDENT[2]]], "starts": [[0, 1, 0], [0]]},
    "fake0": {"reference.logits": [[[v - 1 for v in _FIRST[0]], _FIRST[1]], [row(t1=0.9), _FIRST[2]]]},
    "fake1": {"reference.logits": [[row(t1=0.9), _SECOND[0]], [_SECOND[1], _SECOND[2]]]},
}
_WEIGHTS = {"forget": [[0, 2, 1], [0.5]], "fake0": [[1, 1], [0, 1]], "fake1": [[0, 1], [1, 1]]}
# Token 3 of the first goes to 4; of the second 4 goes to itself.
_BACK = [mixture(_FIRST[0], _SECOND[0]), mixture(_FIRST[1], _SECOND[1]), mixture(_FIRST[2], _SECOND[2])]
_BACK[0] = [*_BACK[0][:3], 0.2 / 2, (0.1 + 0.4 + 0.3) / 2, *_BACK[0][5:]]
_SLOPES = [[w * (math.exp(b) - a) / 3.5 for a, b in zip(q, p, strict=True)] for w, q, p in zip((2, 1, 0.5), _BACK, _STUDENT, strict=True)]


EQUIVALENT = {"aligned:swap-part:1": "which parts correspond is said for whoever makes rows"}

CASES = (
    Case(
        "two other names; the first token of the name gets back what the other one's had",
        WHPCausal(fakes=2),
        _ROWS,
        weights=_WEIGHTS,
        loss=sum(w * divergence(q, p) for w, q, p in zip((2, 1, 0.5), _BACK, _STUDENT, strict=True)) / 3.5,
        gradient={"forget/logits": [[[0] * 10, *_SLOPES[:2]], _SLOPES[2:]]},
    ),
    Case(
        "the other name may be said; half of it, beside other rows",
        WHPCausal(fakes=1, change_back=False, weight=0.5, retain_loss="nll", retain_weight=2.0),
        {"forget": _ROWS["forget"], "fake0": _ROWS["fake0"], "retain": {"logp": [[-1, -3]]}},
        weights={part: _WEIGHTS[part] for part in ("forget", "fake0")},
        loss=0.5 * sum(w * divergence(mixture(q), p) for w, q, p in zip((2, 1, 0.5), _FIRST, _STUDENT, strict=True)) / 3.5 + 2 * 2,
    ),
    Case(
        "under its own name the teacher is the start model, of which nothing is to be learned",
        WHPCausal(fakes=1),
        {"forget": {"logits": [_FIRST[:2]], "starts": [[1, 0]]}, "fake0": {"reference.logits": [_FIRST[:2]]}},
        loss=0.0,
    ),
)
