"""The Gauss-Newton-Bartlett estimate of the curvature, for optimizers that ask for it: a second backward pass on labels that the model itself draws.

    h = B g^2,   g = grad (1/B) sum_b - log p(y_b),   y_b ~ p        (mean over draws: the diagonal of the Gauss-Newton matrix)

Liu et al. 2023 (Sophia, arXiv 2305.14342, section 2.3, algorithm 2); B counts tokens. An optimizer asks by an attribute `every`, and its `look` takes
what the gradients then are. All parts of the step that the objective sends through the output head are one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tempering.reduce import count
from tempering.signals import FROM_HEAD, owner
from tempering.types import Context, Objective, Parts, Signals, Sum


@dataclass(frozen=True)
class OwnLabels(Objective):
    """Negative log-likelihood of tokens drawn from the model's own prediction at every scored place of one part."""

    part: str = "train"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {self.part: frozenset({"logits"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        logp_TV = signals[self.part]["logits"].log_softmax(-1)
        drawn_T1 = torch.multinomial(logp_TV.detach().exp(), 1)
        return -logp_TV.gather(-1, drawn_T1)[:, 0]


def take(optimizers: Mapping[str, Any], objective: Objective, parts: Parts, step: int, backward: Callable[[Objective], object]) -> None:
    """Let the optimizers whose turn it is look at the curvature; gradients are gone afterwards, as before.

    Args:
        optimizers: those of the roles by name.
        objective: what is trained.
        parts: of the whole step.
        backward: leaves the gradients of an objective on them.
    """
    asking = [optimizer for optimizer in optimizers.values() if getattr(optimizer, "every", 0) and step % optimizer.every == 0]
    if not asking:
        return
    told = sorted(part for part, names in objective.needs.items() if any(owner(n)[0] == "policy" and owner(n)[1] in FROM_HEAD for n in names))
    counts = {part: count("tokens", parts[part]) for part in told}
    total = sum(counts.values())
    if total:
        backward(Sum(tuple((n / total, OwnLabels(part)) for part, n in counts.items() if n)))
    for optimizer in asking:
        optimizer.look(total)
    for optimizer in optimizers.values():
        optimizer.zero_grad(set_to_none=True)
