"""Inputs on which merges are compared with mergekit's, what it is called with, and how its numbers in mergekit.json were made.

    pip install --no-deps mergekit==0.1.5 immutables
    python -m tests.peers.mergekit

runs the very task of each of its methods on one small tensor of four models, in float32 and bfloat16. Where a method draws random numbers, both get
the same ones: `torch.bernoulli` is replaced for mergekit by a comparison with ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from tempering import index
from tempering.merging.run import draws

NUMBERS = Path(__file__).with_suffix(".json")
SHAPE = (6, 20)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Theirs:
    """A call: settings of the whole, and of each model by name; how many models stand beside the base, and whether there is one."""

    method: str
    count: int = 3
    based: bool = True
    whole: Mapping[str, Any] = field(default_factory=dict)
    each: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    exact: bool = True
    """Whether the result is the same bits in both types; elsewhere the same to rounding in float32, where ours is computed."""


WEIGHTS = {"weight": (0.3, 1.0, -0.45)}
DENSITIES = WEIGHTS | {"density": (0.53, 0.3, 0.81)}
THEIRS = {
    "linear": Theirs("linear", based=False, each=WEIGHTS),
    "linear_sum": Theirs("linear", based=False, whole={"normalize": False}, each=WEIGHTS),
    "slerp": Theirs("slerp", 1, whole={"t": 0.3}, exact=False),
    "task_arithmetic": Theirs("task_arithmetic", whole={"lambda": 0.7}, each=WEIGHTS),
    "task_arithmetic_normalized": Theirs("task_arithmetic", whole={"normalize": True}, each=WEIGHTS),
    "ties": Theirs("ties", each=DENSITIES),
    "ties_sum": Theirs("ties", whole={"normalize": False, "lambda": 1.5}, each=DENSITIES),
    "dare_linear": Theirs("dare_linear", each=DENSITIES),
    "dare_ties": Theirs("dare_ties", whole={"rescale": False}, each=DENSITIES),
    "dare_ties_normalized": Theirs("dare_ties", whole={"normalize": True}, each=DENSITIES),
    "della": Theirs("della", each=DENSITIES | {"epsilon": (0.1, 0.2, 0.15)}, exact=False),
    "della_linear": Theirs("della_linear", each=DENSITIES | {"epsilon": (0.1, 0.2, 0.15)}, exact=False),
    "breadcrumbs": Theirs("breadcrumbs", each=DENSITIES | {"gamma": (0.05, 0.1, 0.02)}),
    "breadcrumbs_ties": Theirs("breadcrumbs_ties", each=DENSITIES | {"gamma": (0.05, 0.1, 0.5)}),
    "model_stock": Theirs("model_stock", exact=False),
    "model_stock_filters": Theirs("model_stock", 2, whole={"filter_wise": True}, exact=False),
    "multislerp": Theirs("multislerp", based=False, each={"weight": (0.3, 1.0, 0.45)}, exact=False),
    "multislerp_changes": Theirs("multislerp", whole={"normalize_weights": False}, each={"weight": (0.3, 1.0, 0.45)}, exact=False),
    "nuslerp": Theirs("nuslerp", 2, based=False, each={"weight": (0.3, 1.0)}, exact=False),
    "nuslerp_changes": Theirs("nuslerp", 2, whole={"nuslerp_flatten": False}, each={"weight": (0.3, 1.0)}, exact=False),
    "nuslerp_columns": Theirs(
        "nuslerp", 2, based=False, whole={"nuslerp_flatten": False, "nuslerp_row_wise": True}, each={"weight": (0.3, 1.0)}, exact=False
    ),
    "karcher": Theirs("karcher", based=False, exact=False),
    "sce": Theirs("sce", exact=False),
    "sce_selected": Theirs("sce", whole={"select_topk": 0.4}, exact=False),
    "arcee_fusion": Theirs("arcee_fusion", 1, exact=False),
    "nearswap": Theirs("nearswap", 1, whole={"t": 0.05}),
    "passthrough": Theirs("passthrough", 1, based=False, each={"scale": (0.5,)}),
    "ram": Theirs("ram", whole={"epsilon": 0.2}, exact=False),
    "ramplus_tl": Theirs("ramplus_tl", whole={"epsilon": 0.2, "r": 0.3, "alpha": 0.9}, exact=False),
}


def tensors(dtype: torch.dtype) -> list[Tensor]:
    """Of the base and of three models that were changed from it."""
    at = torch.arange(SHAPE[0] * SHAPE[1], dtype=torch.float64)
    base = torch.sin(1.3 * at + 0.2)
    return [x.reshape(SHAPE).to(dtype) for x in (base, *(base + 0.3 * torch.sin((0.7 + i) * at + i) ** 3 for i in (1, 2, 3)))]


def ours(name: str, dtype: torch.dtype) -> Tensor:
    """What we make of the tensors."""
    call = THEIRS[name]
    settings = {key + "_" * (key == "lambda"): value for key, value in {**call.whole, **call.each}.items()}
    method = index.load(index.find(call.method, "merge"))(**settings)
    base, *others = tensors(dtype)
    return method(base if call.based else None, others[: call.count], draws(0, "w"))


def theirs(name: str, dtype: torch.dtype) -> Tensor:
    """What mergekit makes of them."""
    from mergekit.merge_methods.api import merge_tensors

    call = THEIRS[name]
    used = tensors(dtype)[not call.based : call.count + 1]
    each = {key: list(values[: call.count]) for key, values in call.each.items()}
    draw = draws(0, "w")
    with mock.patch("torch.bernoulli", lambda p: (draw(p.shape) < p).to(p.dtype)):
        return merge_tensors(used, call.method, parameters={**call.whole, **each}, base_index=0 if call.based else None)


def main() -> None:
    """Write the numbers."""
    found = {name: {kind: theirs(name, dtype).float().flatten().tolist() for kind, dtype in DTYPES.items()} for name in THEIRS}
    NUMBERS.write_text(json.dumps(found, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
