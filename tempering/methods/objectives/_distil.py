"""What losses of distillation share: a teacher's and the student's distribution of the next token, and that a loss looks at one token at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from tempering.types import Batch, Context, Norm, Objective, Parts, Signals


@dataclass(frozen=True)
class Distil(Objective):
    """A divergence between teacher and student at each scored token, over the whole vocabulary. A subclass says which, in `divergence`.

    Hinton et al. 2015 (arXiv 1503.02531, section 2): both distributions are softened by the temperature, and the loss is multiplied by its square, so
    that the gradient keeps its size.
    """

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """What the logits of both are divided by."""
    norm: Norm = "tokens"
    """What the sum is divided by."""
    by_token = True

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {self.part: frozenset({"logits", "teacher.logits"})}

    def divergence(self, teacher_TV: Tensor, student_TV: Tensor) -> Tensor:
        """A number for each token [T] of log-probs [T, V]."""
        raise NotImplementedError

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        student_TV = (signals[self.part]["logits"] / self.temperature).log_softmax(-1)
        teacher_TV = (signals[self.part]["teacher.logits"] / self.temperature).log_softmax(-1)
        agree_T = (student_TV.argmax(-1) == teacher_TV.argmax(-1)).float()
        ctx.log(agreement=agree_T[scored(parts[self.part])])
        return self.temperature**2 * self.divergence(teacher_TV, student_TV)


def scored(batch: Batch) -> Tensor:
    """Which tokens carry weight, as indices [N]: a plan, whose signals have no contents, can select by these."""
    return (batch.weight_T != 0).nonzero().squeeze(-1)


def kl(p_TV: Tensor, q_TV: Tensor) -> Tensor:
    """KL(p || q) [T] of log-probs [T, V]; what p gives no chance counts nothing."""
    return (p_TV.exp() * (p_TV - q_TV)).sum(-1)
