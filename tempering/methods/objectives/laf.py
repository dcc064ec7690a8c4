"""LAF, label-agnostic forgetting: what a model makes of the forget prompts is moved away from where such prompts lay; answers are never looked at.

    L_UE = mean_r e(m_r) - mean_f e(m_f),   e(m) = exp(m / (m + 1)),   m = || P(g) - g ||^2
    L_RA = mean_r d_r - log sum_f exp(d_f / temp),   d = 1 - cos(g, g_start)

Shen et al. 2024 (S119, arXiv 2404.00506, section 3, and the released code as the catalogue describes it): g is a representation, P its reconstruction
by a model of how all are distributed (m_r), or those of the forget rows (m_f). L_UE keeps the others likely and makes the forget ones strange; being
between 1 and e, it cannot run away. L_RA holds the others and lets the forget ones go. There P are small variational autoencoders; here it is the
projection on the leading principal components of the start model's representations, which is what a linear one converges to (Lucas et al. 2019, arXiv
1911.02469). g is the mean state after `layer` blocks over the prompt's tokens. The two losses are summed, not alternated, and the optional repair
with labels is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._forgetting import Forgetting
from tempering.methods.objectives._represented import Density, Remembered, moved, strange
from tempering.reduce import segment_weight
from tempering.types import Context, Objective, Parts, Signals

FAMILY = "forget"
CATALOGUE = ("S119",)
CONFUSED_WITH = {"rmu": "pushes states to one random point"}


@dataclass(frozen=True)
class LAF(Forgetting):
    """The forget rows' half: their representations become unlike what they were."""

    layer: Annotated[int, Field(ge=0)] = 3
    """After how many blocks representations are taken."""
    latent: Annotated[int, Field(gt=0)] = 8
    """Principal components that a reconstruction has, the size of the paper's latent space (8 to 16)."""
    contrast: Annotated[float, Field(ge=0)] = 1.0
    """Weight of L_RA."""
    temperature: Annotated[float, Field(gt=0)] = 5.0
    """temp; 5 to 20 in the paper's runs."""
    retain_loss: Literal["representations", "none"] = "representations"  # pyright: ignore[reportIncompatibleVariableOverride]
    """What holds the rest: its half of the two losses, or nothing."""
    couples = "sums"
    unlabelled = True
    densities = (Density(), Density())  # of all rows, and of the forget rows: `knowing` gives them

    def knowing(self, every: Density, own: Density) -> LAF:
        """The same loss with where all rows' representations lie, and the forget rows'."""
        return _Knowing(**{f.name: getattr(self, f.name) for f in fields(self)}, densities=(every, own))

    @property
    def reads(self) -> Mapping[str, frozenset[str]]:
        return {"forget": frozenset({f"hidden.{self.layer}", f"reference.hidden.{self.layer}"})}

    def keeping(self) -> Objective | None:
        return Remembered(self.layer, self.contrast, self.densities[0]) if self.retain_loss == "representations" else None

    def stats(self, parts: Parts, signals: Signals) -> Mapping[str, Tensor]:
        there_S = segment_weight(parts["forget"]) != 0
        away_S = torch.exp(moved(self, parts, signals) / self.temperature)
        return {"away": torch.where(there_S, away_S, 0.0).sum(), "rows": there_S.sum().to(away_S)}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        moved_S = moved(self, parts, signals)
        ctx.log(forget_moved=moved_S)
        # The log of the step's sum, whose gradient each row has its share of.
        away = ctx.stats["away"]
        share_S = ctx.stats["rows"] * torch.exp(moved_S.detach() / self.temperature) / away * moved_S / self.temperature
        contrast_S = torch.log(away) + share_S - share_S.detach()
        return -strange(self, parts, signals, self.densities[1]) - self.contrast * contrast_S


@dataclass(frozen=True)
class _Knowing(LAF):
    densities: tuple[Density, Density] = (Density(), Density())


def _v(a: float, b: float) -> list[float]:
    return [a, b, *[0.0] * 14]


_ROWS = {
    "forget": {"hidden.1": [[_v(1, 2), _v(3, 0), _v(9, 9)], [_v(0, 3)]], "reference.hidden.1": [[_v(2, 0), _v(2, 0), _v(9, 9)], [_v(3, 3)]]},
    "retain": {"hidden.1": [[_v(1, 1)], [_v(2, 0)]], "reference.hidden.1": [[_v(1, 0)], [_v(2, 0)]]},
}
_EVERY, _OWN = Density(_v(0, 0), [_v(0, 1)]), Density(_v(1, 0.5), [_v(1, 0)])
# Forget rows lie at (2, 1) and (0, 3), off their line by 0.5 and 2.5, and have turned by these.
_TURNED = [1 - 2 / math.sqrt(5), 1 - 1 / math.sqrt(2)]
_AWAY = [math.exp(d / 2) for d in _TURNED]
_A, _B = (3 * away / sum(_AWAY) / 2 for away in _AWAY)
_FIRST = _v(_A / (5 * math.sqrt(5)) / 2, (-math.exp(0.2) / 1.25**2 / 2 - 2 * _A / (5 * math.sqrt(5))) / 2)

CASES = (
    Case(
        "forget rows strange and turned, by their shares; unscored tokens not at all",
        LAF(layer=1, contrast=3.0, temperature=2.0, retain_loss="none").knowing(_EVERY, _OWN),
        _ROWS,
        weights={"forget": [[1, 1, 0], [0.5]]},
        loss=-(math.exp(0.2) + math.exp(6.25 / 7.25)) / 2 - 3 * math.log(sum(_AWAY)),
        gradient={"forget/hidden.1": [[_FIRST, _FIRST, _v(0, 0)], [_v(_B / (3 * math.sqrt(2)), -math.exp(6.25 / 7.25) / 7.25**2 * 5 / 2)]]},
        logs={"forget_moved": sum(_TURNED) / 2},
    ),
    Case(
        "half of it, and others where they were; a row without a prompt counts nowhere",
        LAF(layer=1, weight=0.5, retain_weight=2.0).knowing(_EVERY, _OWN),
        {**_ROWS, "forget": {name: [*of, [_v(5, 5)]] for name, of in _ROWS["forget"].items()}},
        weights={"forget": [[1, 1, 0], [1], [0]]},
        groups={"retain": [0, 0]},
        loss=0.5 * (-(math.exp(0.2) + math.exp(6.25 / 7.25)) / 2 - math.log(sum(math.exp(d / 5) for d in _TURNED)))
        + 2 * (math.exp(0.5) + _TURNED[1] + math.exp(0.8)) / 2,
        logs={"retain_moved": _TURNED[1] / 2},
    ),
)
