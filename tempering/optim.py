"""Optimizers by name, from torch, methods/optimizers and a few well-kept packages; schedules as pure functions of the step."""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tempering import index
from tempering.config import Optimizer, Schedule
from tempering.errors import UserError

PACKAGES = {"torch": "torch.optim", "bitsandbytes": "bitsandbytes.optim", "pytorch_optimizer": "pytorch_optimizer"}
"""Where optimizers may come from: a name in a recipe can never import anything else."""

FUSED = (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD)
"""Updated in one pass over the memory, without temporaries of the parameters' size, where torch can."""


def build(config: Optimizer, params: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer over two groups: matrices with weight decay, vectors (biases, norms, scalars) without.

    Args:
        config: name, rate and options.
        params: trainable parameters by name; order of names is kept.

    Raises:
        UserError: unknown optimizer, missing package, or an option it does not take.
    """
    cls = _find(config.name)
    groups = [
        {"params": [p for p in params.values() if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in params.values() if p.ndim < 2], "weight_decay": 0.0},
    ]
    options = dict(config.options)
    if cls in FUSED and not options.keys() & {"foreach", "fused", "differentiable", "maximize"}:
        # Parameters that lie on meshes of several shapes are updated one by one: no operation takes them together. Nor has SGD one for pieces.
        meshes = {getattr(p, "device_mesh", None) for p in params.values()}
        whole = meshes == {None}
        plain = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in params.values())
        options["fused"] = plain and len(meshes) == 1 and (whole or cls is not torch.optim.SGD)
        if len(meshes) > 1:
            options["foreach"] = False
    try:
        return cls([group for group in groups if group["params"]], lr=config.lr, **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer {config.name!r} with options {config.options!r} was refused: {error}") from None


def _find(name: str) -> Any:
    package, _, short = name.rpartition(":")
    own = {entry.name: entry for entry in index.methods("optimizer")}
    if not package and short.lower() in own:
        return index.load(own[short.lower()])
    package = package or "torch"
    if package not in PACKAGES:
        raise UserError(f"optimizer {name!r}: the package before the colon is one of {', '.join(sorted(PACKAGES))}")
    try:
        module = importlib.import_module(PACKAGES[package])
    except ImportError:
        raise UserError(f"optimizer {name!r} needs the package {package}: pip install {package.replace('_', '-')}") from None
    classes = {
        n.lower(): c
        for n, c in vars(module).items()
        if isinstance(c, type) and issubclass(c, torch.optim.Optimizer) and c is not torch.optim.Optimizer
    }
    if short.lower() not in classes:
        known = [*classes, *own]
        near = difflib.get_close_matches(short.lower(), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
        raise UserError(f"optimizer {name!r} is not in {PACKAGES[package]}; {hint}")
    return classes[short.lower()]


def rate(schedule: Schedule, step: int, steps: int) -> float:
    """Learning-rate factor of one optimizer step.

    Args:
        step: 0-based.
        steps: of the whole run.

    Returns:
        Factor between 0 and 1 by which the configured rate is multiplied.
    """
    warm = math.ceil(schedule.warmup * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    done = (step - warm) / max(1, steps - warm)
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "linear":
        fall = 1.0 - done
    elif schedule.name == "cosine":
        fall = 0.5 * (1.0 + math.cos(math.pi * done))
    else:
        fall = min(1.0, (1.0 - done) / schedule.decay)
    return schedule.floor + (1.0 - schedule.floor) * fall


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
