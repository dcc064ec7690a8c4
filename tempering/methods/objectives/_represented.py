"""Losses on a row's representation, the mean of its scored tokens' states: how far it lies from where such rows lay, and from where it was itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tempering.reduce import segment_mean
from tempering.types import Context, Norm, Objective, Parts, Signals


@dataclass(frozen=True)
class Density:
    """Where representations lie: their mean [H] and the leading directions [K, H], orthonormal, of their spread."""

    mean: Sequence[float] = (0.0,)
    basis: Sequence[Sequence[float]] = ()

    def error(self, g_SH: Tensor) -> Tensor:
        """Squared distance of each representation from its reconstruction [S]."""
        basis_KH = torch.tensor(self.basis, dtype=g_SH.dtype, device=g_SH.device).reshape(len(self.basis), g_SH.shape[1])
        off_SH = g_SH - torch.tensor(self.mean, dtype=g_SH.dtype, device=g_SH.device)
        return (off_SH - off_SH @ basis_KH.T @ basis_KH).square().sum(-1)


def strange(loss: Any, parts: Parts, signals: Signals, density: Density) -> Tensor:
    """exp(m / (m + 1)) of each row's error m, between 1 and e [S].

    Args:
        loss: says which part and layer.
    """
    error_S = density.error(segment_mean(signals[loss.part][f"hidden.{loss.layer}"], parts[loss.part]))
    return torch.exp(error_S / (error_S + 1))


def moved(loss: Any, parts: Parts, signals: Signals) -> Tensor:
    """1 - cosine of each row's representation and that of the start model [S]."""
    now_SH, then_SH = (segment_mean(signals[loss.part][f"{whose}hidden.{loss.layer}"], parts[loss.part]) for whose in ("", "reference."))
    return 1 - F.cosine_similarity(now_SH, then_SH, dim=-1)


@dataclass(frozen=True)
class Remembered(Objective):
    """exp(m / (m + 1)) and how far it has turned, of each retain row: what keeps representations likely and where they were."""

    layer: int
    contrast: float
    density: Density
    norm: Norm = "segments"
    part = "retain"
    per = "segment"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"retain": frozenset({f"hidden.{self.layer}", f"reference.hidden.{self.layer}"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        strange_S, moved_S = strange(self, parts, signals, self.density), moved(self, parts, signals)
        ctx.log(retain_moved=moved_S)
        return strange_S + self.contrast * moved_S


EQUIVALENT = {"moved:normaliser:1": "a cosine does not depend on how long its vectors are"}
