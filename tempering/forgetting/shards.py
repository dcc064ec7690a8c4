"""Rows in shards that know nothing of each other, and one model made of several.

A row's shard follows from its tokens alone, so it does not depend on which other rows there are: that is what makes forgetting by retraining exact.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tempering.types import Policy, Row

if TYPE_CHECKING:
    from torch import Tensor, nn


class Some(Sequence[Row]):
    """Those of the rows that have these places, in order."""

    def __init__(self, rows: Sequence[Row], places: Sequence[int]) -> None:
        self.rows, self.places = rows, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: Any) -> Any:
        return self.rows[self.places[i]]


def shard_of(row: Row, shards: int) -> int:
    """Which shard a row belongs to, 0 .. shards - 1: a hash of the tokens of its first part."""
    digest = hashlib.sha256()
    for segment in row[min(row)]:
        digest.update(np.ascontiguousarray(segment.ids, dtype="<i4").tobytes())
    return int.from_bytes(digest.digest()[:8], "big") % shards


def sharded(rows: Sequence[Row], shards: int) -> list[Some]:
    """The rows of each shard; some may be empty."""
    places: list[list[int]] = [[] for _ in range(shards)]
    for i in range(len(rows)):
        places[shard_of(rows[i], shards)].append(i)
    return [Some(rows, of) for of in places]


def voting(models: Sequence[nn.Module], like: Policy, name: str) -> Policy:
    """A policy that decodes from the average of the predictions of plain models.

    Args:
        models: at least one.
        like: what else it has: tokenizer and source.
    """
    from tempering.methods.decodes.average import Average

    roles = {f"shard{i}": model for i, model in enumerate(models[1:], 1)}
    decode: tuple[Any, ...] = (Average(tuple(roles)),) if roles else ()
    return Policy(models[0], like.tokenizer, name=name, decode=decode, roles=roles, source=like.source)


def averaged(weights: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """sum_k shares_k * weights_k of tensors by name, in float64, in the dtype of the first.

    Args:
        weights: the same names and shapes each.
        shares: one for each, not normalised here.
    """
    first = weights[0]
    return {
        name: sum(share * of[name].double() for share, of in zip(shares, weights, strict=True)).to(p.dtype)  # type: ignore[union-attr]
        for name, p in first.items()
    }
