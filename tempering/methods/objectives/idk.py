"""Refusal tuning: the questions stay, their answers become "I don't know" and its like, and that is learned by plain likelihood.

    loss = - sum_t w_t log p(r_t | x, r_<t) / sum_t w_t   on the refusals

Maini et al. 2024 (TOFU, arXiv 2401.06121, section 4, where it is called preference optimisation: a loss on refused forget rows beside the loss on
the retain rows); rejection tuning in RWKU (S075); in the general form of Liu et al. 2024 (S078) the response after unlearning is a refusal and the
sign is plus. The old answer is nowhere in the loss, so it is not made unlikely, only less likely than the refusal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._forgetting import Forgetting
from tempering.reduce import scored
from tempering.types import Context, Norm, Parts, Signals

FAMILY = "forget"
CATALOGUE = ("S078", "S075")
CONFUSED_WITH = {"idk_dpo": "prefers a refusal to the forget answer"}


@dataclass(frozen=True)
class Idk(Forgetting):
    """Negative log-likelihood of a refusal instead of each forget answer."""

    norm: Norm = "tokens"
    """What the forget term is divided by."""
    part = "refused"
    per = "token"

    @property
    def reads(self) -> Mapping[str, frozenset[str]]:
        return {self.part: frozenset({"logp"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        logp_T = signals[self.part]["logp"]
        ctx.log(instead_nll=-scored(logp_T, parts[self.part]))
        return -logp_T


_REFUSED = {"logp": [[-1, -2, -4], [-8], [-16, -32]]}
_WEIGHTS = [[0, 1, 0.5], [2], [1, 1]]

CASES = (
    Case(
        "all tokens of refusals alike",
        Idk(retain_loss="none"),
        {"refused": _REFUSED},
        weights={"refused": _WEIGHTS},
        loss=(4 + 16 + 48) / 5.5,
        gradient={"refused/logp": [[0, -1 / 5.5, -0.5 / 5.5], [-2 / 5.5], [-1 / 5.5, -1 / 5.5]]},
        logs={"instead_nll": (2 + 4 + 8 + 16 + 32) / 5},
    ),
    Case(
        "the paper's: beside the likelihood of the retain rows, each with its own divisor",
        Idk(),
        {"refused": _REFUSED, "retain": {"logp": [[-1, -3], [-0.5], [-4]]}},
        weights={"refused": _WEIGHTS, "retain": [[0, 1], [2], [1]]},
        loss=(4 + 16 + 48) / 5.5 + (3 + 1 + 4) / 4,
    ),
)
