"""Where each weight lies: FSDP2 (`fully_shard`), one unit for each transformer block and one for the rest, on a mesh of hands x tensor.

Where processes side by side share each matrix (tensor.py), a block's pieces are cut once more over the hands; the rest lies in pieces on all
processes, though each side computes it in whole: of its gradients, which are then the same on every side, one counts.

Every process loads the whole model, gives all but its piece away, and gathers a block's weights while that block computes. The unit of the rest is a
wrapper whose forward pass is whatever the engine wants to do with the model (`run`), so body and head can be called one by one, several times, and
the model itself stays what it was. Gradients are summed, not averaged: each process's loss is already its share of the step's.

In bfloat16 a block's weights travel and multiply in bfloat16, as autocast would have it, and gradients are summed in float32. What
autocast leaves alone stays float32: embeddings, head, last norm, and the norms of a block, which are a small unit of their own.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from tempering.distributed.tensor import cut
from tempering.distributed.world import World
from tempering.errors import UserError
from tempering.models import later
from tempering.models.half import Half
from tempering.models.heads import VERDICTS, attends_by_segments, body_and_head, packs
from tempering.models.lighter import lighter
from tempering.signals import Live

T = TypeVar("T")

# Gathering a matrix that is cut twice along one side is told as slow at every weight; it happens once, at the end.
logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)


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
        UserError: a scope trains weights that are not its model's own, or a single number; these cannot be cut. A model that tensor parallelism
            cannot cut.
    """

    def __init__(self, live: Mapping[str, Live], frozen: Iterable[nn.Module], world: World, device: torch.device, dtype: torch.dtype) -> None:
        self._live, self.world = live, world
        self._device = device
        mesh = init_device_mesh(device.type, (world.hands, world.tensor), mesh_dim_names=("hands", "tensor"))
        self._hands, self._sides = mesh["hands"], mesh["tensor"]
        self._all = mesh._flatten("all") if world.tensor > 1 else self._hands
        self._dtype = dtype
        self._roots: dict[int, _Root] = {}
        self._whole: dict[str, nn.Module] = {}
        self._filled: set[tuple[str, bool]] = set()
        for name, role in sorted(live.items()):
            names = {id(p): n for n, p in role.model.named_parameters()}
            if role.handle is not None:
                for n, p in role.handle.params.items():
                    if id(p) not in names or p.ndim == 0:
                        raise UserError(
                            f"role {name}: its scope trains {n!r}, which is {'a single number' if p.ndim == 0 else 'no weight of its model'} and "
                            "cannot be shared between processes; run it with --processes 1"
                        )
            # The first has whole weights of what has trained at the end; all may sample with the policy before.
            if (role.handle is not None and world.first) or name == "policy":
                self._whole[name] = _skeleton(role.model)
            with role.replacing():
                self._shard(role.model)
        for model in frozen:
            self._shard(model)

    def _shard(self, model: nn.Module) -> None:
        if id(model) in self._roots:
            return
        waiting = later.waits(model)
        # The verdicts about a model and its modules are found with whole weights, and kept; all must come to the same.
        # Where the weights of one are still in files, all try things on the same small model.
        small = any(self.world.gather(waiting))
        known = later.stand_in(model) if small else model
        if known is not None:
            for verdict in (body_and_head, packs, attends_by_segments):
                verdict(known)
            with lighter(known):
                pass
        for name in VERDICTS:
            model.__dict__[name] = all(self.world.gather(known is not None and known.__dict__.get(name, False)))
        if self.world.tensor > 1:
            if small and known is None:
                raise UserError("tensor parallelism: no small model of this kind can be made to try the cut on; load it without `later`")
            if small:
                cut(known.to(self._device), self._sides)  # type: ignore[union-attr]
            cut(model, self._sides, check=not small)
        del known
        for module in model.modules():
            if isinstance(module, Half):
                # As numbers, which is what travels: bits in whole numbers would be cast as these.
                module.weight = nn.Parameter(module.numbers(), requires_grad=False)
        low = self._dtype if self._dtype != torch.float32 else None
        policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32 if low else None, cast_forward_inputs=False)
        plain = MixedPrecisionPolicy(cast_forward_inputs=False)
        units: list[Any] = []
        for block in _blocks(model):
            if low is not None and (norms := _norms(block)):
                units.append(fully_shard(norms, mesh=self._hands, mp_policy=plain)[0])
            units.append(fully_shard(block, mesh=self._hands, mp_policy=policy))
        root = _Root(model)
        # Without resharding after the forward pass, an evaluation would leave whole weights where the optimizer expects pieces.
        units.append(fully_shard(root, mesh=self._all, reshard_after_forward=True, mp_policy=plain))
        for unit in units:
            unit.set_gradient_divide_factor(float(self.world.tensor) if unit is units[-1] else 1.0)
            # gloo cannot scale while it sums.
            unit.set_force_sum_reduction_for_comms(True)
            # Experts that saw no token on one process have a gradient on another.
            unit.set_reduce_scatter_unused_params(True, recurse=False)
        self._roots[id(model)] = root
        if waiting:
            root._apply(lambda t: torch.empty_like(t, device=self._device) if t.is_meta else t)
            later.read(model)

    def run(self, model: nn.Module, action: Callable[[], T]) -> T:
        """Do something with a sharded model as if its weights were whole. Every process must do it as often, with the same modules."""
        return self._roots[id(model)](action)

    def clip(self, params: Sequence[nn.Parameter], limit: float) -> float:
        """`clip_grad_norm_` over gradients in pieces on meshes of several shapes; the norm before. Every process calls it at once."""
        total = torch.zeros((), device=self._device)
        grads = [p.grad for p in params if p.grad is not None]
        for grad in grads:
            mine, holders = grad, 1
            if isinstance(grad, DTensor):
                mine = grad.to_local()
                holders = math.prod(n for n, placed in zip(grad.device_mesh.shape, grad.placements, strict=True) if not placed.is_replicate())
            # What other processes hold too counts once.
            total += mine.float().square().sum() * (holders / self.world.size)
        dist.all_reduce(total)
        norm = float(total.sqrt())
        if norm > limit:
            for grad in grads:
                grad.mul_(limit / (norm + 1e-6))
        return norm

    def whole(self, name: str, everywhere: bool = True) -> nn.Module | None:
        """A role's model with whole weights as they are now, beside the one in pieces: on the first process, and of the policy everywhere if that
        is asked for; else None. What never moves is gathered once. Every process calls it at once.
        """
        known = (name, True) in self._filled or (name, everywhere) in self._filled
        self._filled.add((name, everywhere))
        model, role = self._whole[name] if everywhere or self.world.first else None, self._live[name]
        moving = {id(p) for p in role.handle.params.values()} if role.handle is not None else set[int]()
        for n, p in role.model.named_parameters():
            if id(p) in moving or not known:
                full = p.full_tensor() if isinstance(p, DTensor) else p
                if model is not None:
                    _fill(model, n, full.detach().clone())
        return model

    def gather(self) -> None:
        """Put whole weights back into the trained roles of the first process; elsewhere they stay in pieces. Every process calls it at once."""
        for name, role in sorted(self._live.items()):
            if role.handle is None:
                continue
            if (whole := self.whole(name, everywhere=False)) is not None:
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


def _norms(block: nn.Module) -> list[nn.Module]:
    """Modules that hold vectors alone: autocast does not touch their weights."""
    return [m for m in block.modules() if (own := list(m.parameters(recurse=False))) and all(p.ndim == 1 for p in own)]


def _skeleton(model: nn.Module) -> nn.Module:
    """The model with weights that take no memory; a sharded model cannot be copied any more."""
    empty: dict[int, Any] = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, empty)


def _fill(model: nn.Module, name: str, value: Tensor) -> None:
    """Replace a parameter, wherever it is tied to."""
    old = dict(model.named_parameters())[name]
    new = nn.Parameter(value if old.is_floating_point() else value.view(old.dtype), old.requires_grad)
    for module in model.modules():
        for attribute, p in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if p is old:
                setattr(module, attribute, new)
