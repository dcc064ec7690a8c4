"""Where each weight lies: FSDP2 (`fully_shard`) over all processes of the run, one unit for each transformer block and one for the rest.

Every process loads the whole model, gives all but its piece away, and gathers a block's weights while that block computes. The unit of the rest is a
wrapper whose forward pass is whatever the engine wants to do with the model (`run`), so body and head can be called one by one, several times, and
the model itself stays what it was. Gradients are summed, not averaged: each process's loss is already its share of the step's.

In bfloat16 a block's weights travel and multiply in bfloat16, as autocast would have it, and gradients are summed in float32; embeddings, head and
last norm stay float32. The one difference to a single process is that a block's norm weights are rounded to bfloat16 too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from tempering.distributed.world import World
from tempering.errors import UserError
from tempering.models.heads import attends_by_segments, body_and_head, packs
from tempering.models.lighter import lighter
from tempering.signals import Live

T = TypeVar("T")


class _Root(nn.Module):
    """Holds a model for FSDP: calling it with an action runs the action while the weights outside of the blocks are there."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, action: Callable[[], Any]) -> Any:
        return action()


class Sharded:
    """The models of a run in pieces.

    Args:
        live: attached roles, whole and alike on every process, on the device.
        frozen: further models that forward passes will use, for example the reference of a full scope.
        device: where they compute.
        dtype: of matmuls.

    Raises:
        UserError: a scope trains weights that are not its model's own, or a single number; these cannot be cut.
    """

    def __init__(self, live: Mapping[str, Live], frozen: Iterable[nn.Module], world: World, device: torch.device, dtype: torch.dtype) -> None:
        self._live, self._world = live, world
        self._mesh = init_device_mesh(device.type, (world.size,))
        self._dtype = dtype
        self._roots: dict[int, _Root] = {}
        self._whole: dict[str, nn.Module] = {}
        for name, role in sorted(live.items()):
            names = {id(p): n for n, p in role.model.named_parameters()}
            if role.handle is not None:
                for n, p in role.handle.params.items():
                    if id(p) not in names or p.ndim == 0:
                        raise UserError(
                            f"role {name}: its scope trains {n!r}, which is {'a single number' if p.ndim == 0 else 'no weight of its model'} and "
                            "cannot be shared between processes; run it with --processes 1"
                        )
                if world.first:
                    self._whole[name] = _skeleton(role.model)
            mine = {} if role.handle is None else {n: names[id(p)] for n, p in role.handle.params.items()}
            self._shard(role.model)
            if role.handle is not None:
                now = dict(role.model.named_parameters())
                role.handle.params = {n: now[theirs] for n, theirs in mine.items()}
        for model in frozen:
            self._shard(model)

    def _shard(self, model: nn.Module) -> None:
        if id(model) in self._roots:
            return
        # The verdicts about a model and its modules are found with whole weights, and kept.
        for verdict in (body_and_head, packs, attends_by_segments):
            verdict(model)
        with lighter(model):
            pass
        low = self._dtype if self._dtype != torch.float32 else None
        policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32 if low else None, cast_forward_inputs=False)
        units = [fully_shard(block, mesh=self._mesh, mp_policy=policy) for block in _blocks(model)]
        root = _Root(model)
        # Without resharding after the forward pass, an evaluation would leave whole weights where the optimizer expects pieces.
        units.append(fully_shard(root, mesh=self._mesh, reshard_after_forward=True, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False)))
        for unit in units:
            unit.set_gradient_divide_factor(1.0)
            # gloo cannot scale while it sums.
            unit.set_force_sum_reduction_for_comms(True)
            # Experts that saw no token on one process have a gradient on another.
            unit.set_reduce_scatter_unused_params(True, recurse=False)
        self._roots[id(model)] = root

    def run(self, model: nn.Module, action: Callable[[], T]) -> T:
        """Do something with a sharded model as if its weights were whole. Every process must do it as often, with the same modules."""
        return self._roots[id(model)](action)

    def number(self, value: Tensor) -> float:
        """A single number that may be the sum of what each process holds, such as the norm of gradients in pieces. Every process calls it at once."""
        return float(value.full_tensor() if isinstance(value, DTensor) else value)

    def gather(self) -> None:
        """Put whole weights back into the trained roles of the first process; elsewhere they stay in pieces. Every process calls it at once."""
        for name, role in sorted(self._live.items()):
            if role.handle is None:
                continue
            whole = self._whole.get(name)
            for n, p in list(role.model.named_parameters()):
                full = p.full_tensor() if isinstance(p, DTensor) else p
                if whole is not None:
                    _fill(whole, n, full.detach().clone())
            if whole is not None:
                names = {id(p): n for n, p in role.model.named_parameters()}
                now = dict(whole.named_parameters())
                role.handle.params = {n: now[names[id(p)]] for n, p in role.handle.params.items()}
                role.handle.model = role.model = whole


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks: what the family itself says must not be cut, or else the members of the longest list of modules."""
    names = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    blocks = [module for module in model.modules() if type(module).__name__ in names]
    if blocks:
        return blocks
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=len)) if lists else []


def _skeleton(model: nn.Module) -> nn.Module:
    """The model with weights that take no memory; a sharded model cannot be copied any more."""
    empty: dict[int, Any] = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, empty)


def _fill(model: nn.Module, name: str, value: Tensor) -> None:
    """Replace a parameter, wherever it is tied to."""
    old = dict(model.named_parameters())[name]
    new = nn.Parameter(value, old.requires_grad)
    for module in model.modules():
        for attribute, p in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if p is old:
                setattr(module, attribute, new)
