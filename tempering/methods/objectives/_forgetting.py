"""What losses of forgetting share: a forget term, and beside it a retain term that holds everything else where it is.

A published method of unlearning is a forget term (the class), a retain term (`retain_loss`), a scope, and a rule for when to stop; the surveys (Liu
et al. 2024, arXiv 2402.08787; Si et al. 2023, arXiv 2311.15766) write them so too. A file of this family is the forget term: what it reads of the
part "forget" (`reads`), and one formula. "GradDiff" is `gradient_ascent` with the retain term "nll", "NPO-RT" and "NPO-KL" are `npo` with "nll" and
"kl".

Rows have the part "retain" (other rows, in an order of their own), "refused": the forget row's prompt with a refusal for an answer, and "alternate":
with another answer of the model's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from tempering.methods.objectives.kl_reference import KLReference
from tempering.methods.objectives.nll import NLL
from tempering.types import Batch, Coefficient, Norm, Objective, Parts, Signals

RetainLoss = Literal["none", "nll", "kl"]


@dataclass(frozen=True)
class Forgetting(Objective):
    """Base of losses on the part "forget", with the retain term that goes with any of them."""

    retain_loss: RetainLoss = "nll"
    """What holds the rest: nothing, the likelihood of the retain rows, or the KL divergence from the starting model on them."""
    retain_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the retain term."""
    retain_norm: Norm = "tokens"
    """What the retain term is divided by."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the forget term."""
    norm = "segments"
    part = "forget"
    per = "segment"
    decodes = False
    # Whether the model forgets while it decodes, and its weights stay as they are.
    asks_of = ""
    # The model that is asked for the part "alternate"; "" is the one that forgets.
    unlabelled = False
    # Whether it sees rows without their answers.
    learns = ()
    # Roles that are the start model trained further on the forget rows, before this loss is trained (`forgetting.staged`).

    @property
    def reads(self) -> Mapping[str, frozenset[str]]:
        """part -> signals of the forget term."""
        return {"forget": frozenset({"logp"})}

    def keeping(self) -> Objective | None:
        """The retain term."""
        if self.retain_loss == "none":
            return None
        return NLL("retain", norm=self.retain_norm) if self.retain_loss == "nll" else KLReference("retain", norm=self.retain_norm)

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        keeping = self.keeping()
        every = [self.reads, *([keeping.needs] if keeping else [])]
        return {part: frozenset().union(*(needs.get(part, frozenset()) for needs in every)) for part in sorted({p for needs in every for p in needs})}

    def terms(self) -> tuple[tuple[Coefficient, Objective], ...]:
        keeping = self.keeping()
        return ((self.weight, self), *(((self.retain_weight, keeping),) if keeping else ()))


def row(**p: float) -> list[float]:
    """Log-probs over a vocabulary of ten tokens, of which those that are not named share what is left: row(t3=0.5). For hand-worked cases, in which
    the tokens are 3, 4, ..., 9, 3, 4, ..."""
    rest = (1 - sum(p.values())) / (10 - len(p))
    return [math.log(p.get(f"t{v}", rest)) for v in range(10)]


def mixture(*rows: list[float]) -> list[float]:
    """The mean of the distributions with these logs, as probabilities; for hand-worked cases."""
    return [sum(map(math.exp, of)) / len(rows) for of in zip(*rows, strict=True)]


def divergence(q: list[float], log_p: list[float]) -> float:
    """KL of probabilities from a distribution with these logs; for hand-worked cases."""
    return sum(a * (math.log(a) - b) for a, b in zip(q, log_p, strict=True) if a)


def ratio(parts: Parts, signals: Signals, part: str = "forget") -> Tensor:
    """log policy - log reference of each answer [S]."""
    from tempering.reduce import segment_sum

    batch: Batch = parts[part]
    return segment_sum(signals[part]["logp"] - signals[part]["reference.logp"], batch)
