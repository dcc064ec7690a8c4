"""Two steps of the training loop on a shallow model without contents, and how many bytes were alive when.

The loop, the engine, the objective, the scope and the optimizer are the real ones. The first step makes the optimizer's states; before the second the
gradients are there already, as in a step of several micro-batches. Depth is what can be left out exactly: blocks of one shape keep the same bytes
each, so two depths give the share of a block and of the rest. Where a model's blocks differ it is traced as deep as it is.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from tempering.config import Optimizer, Training
from tempering.errors import UserError
from tempering.fit import fit
from tempering.layout import arrange, concatenate, select
from tempering.models.lighter import judging_apart
from tempering.models.recompute import recomputed
from tempering.planning.meter import Meter
from tempering.planning.quantised import parameters, stand_in
from tempering.reference import brought
from tempering.signals import owner
from tempering.types import Objective, Parts, Role, Run, Scope

UNSEEN = {"bitsandbytes": 20}
"""Package of an optimizer -> bytes that its step takes on a CPU for each element of the largest parameter, where one operation does it all and
nothing can be watched: two states expanded, the gradient, and two temporaries, float32."""
SHALLOW = (1, 2)
"""Blocks of the two traced models, beyond those that the objective reads: the peak has everything kept for the backward pass in it, so it grows by a
block's share."""


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters, and bytes."""

    parameters: float
    trainable: float
    weights: float
    """All parameters and buffers of the policy, and of a critic."""
    reference: float
    """Frozen models beside the policy: a copy of the start, a teacher."""
    gradients: float
    states: float
    """What the optimizer keeps between steps."""
    activations: float
    """Kept by the forward pass for the backward pass, logits apart."""
    logits: float
    """Tensors as wide as the vocabulary at the moment of the peak."""
    working: float
    """The rest of that moment: casts, gradients of activations, recomputed blocks."""
    update: float
    """Temporaries of clipping and of the optimizer's step."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def __mul__(self, times: float) -> Counts:
        return Counts(**{name: value * times for name, value in vars(self).items()})


@dataclass(frozen=True)
class Work:
    """What is traced: everything that `fit` is given, with the parts of one micro-batch."""

    config: Any
    """The model's transformers configuration."""
    scope: Scope
    objective: Objective
    optimizer: Optimizer
    training: Training
    micro: Parts
    quantise: str = "none"
    beside: Mapping[str, Role] = field(default_factory=dict)
    """Further models of the run by name, of which the configuration counts: a frozen teacher, a specialist that trains, a critic as deep as the
    policy."""


def trace(work: Work) -> Counts:
    """Counts at the model's own depth.

    Raises:
        UserError: the model decides by the contents of its tensors, or has no configuration to build it from.
    """
    depth = getattr(work.config.get_text_config(), "num_hidden_layers", 0)
    if work.training.recompute_over:
        return _recomputing(work, depth)
    # An objective that reads the state after some block needs that many, and one above: those that are left out are all alike.
    low, high = (n + _deepest(work.objective) for n in SHALLOW)
    if depth <= high or not _alike(work.config, depth):
        return _at(work, work.config)
    few, more = (_at(work, shallow(work.config, n)) for n in (low, high))
    return more + (more + few * -1.0) * (depth - high)


def _recomputing(work: Work, depth: int) -> Counts:
    """Of a run that recomputes some blocks of this pass, whose activations those of blocks that are kept and of blocks that are not add up to."""
    kept, none = (replace(work, training=work.training.model_copy(update={"recompute_over": 0, "checkpointing": all_})) for all_ in (False, True))
    if work.training.checkpointing:
        return trace(none)
    tokens = arrange(concatenate(list(work.micro.values())), work.training.layout).ids_RL.numel()
    share = recomputed(depth, tokens, work.training.recompute_over) / max(1, depth)
    counts = trace(kept)
    if share == 0:
        return counts
    other = trace(none)
    return replace(counts, activations=(1 - share) * counts.activations + share * other.activations, working=max(counts.working, other.working))


def _deepest(objective: Objective) -> int:
    """How many blocks are needed for the signals "hidden.N" and "router.N" that are asked for; 0 where none is."""
    asked = [owner(name)[1].partition(".") for names in objective.needs.values() for name in names]
    return max((int(number) + (kind == "router") for kind, _, number in asked if kind in ("hidden", "router") and number.isdigit()), default=0)


def shallow(config: Any, depth: int) -> Any:
    """The configuration with the first `depth` blocks only; lists with an entry for each block are cut."""
    cut = copy.deepcopy(config)
    text = cut.get_text_config()
    before = text.num_hidden_layers
    for name, value in list(vars(text).items()):
        if isinstance(value, list | tuple) and len(value) == before:
            setattr(text, name, value[:depth])
    text.num_hidden_layers = depth
    return cut


def build(config: Any, device: torch.device) -> Any:
    """A causal language model of this configuration in float32, as it is loaded for training; on "meta", or among fake tensors, it holds nothing."""
    from transformers import AutoModelForCausalLM

    from tempering.models.gguf import quiet
    from tempering.planning.experts import install

    with quiet(), device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    install(model.config)
    return model


def _counted(work: Work, config: Any, device: torch.device, meter: Meter, sizes: list[int]) -> Any:
    """A model without contents whose storages are counted; their bytes are appended to `sizes`."""
    with meter.fake:
        model = build(config, device)
        if work.quantise != "none":
            with device:
                stand_in(model, work.quantise)
    meter.add([*model.parameters(), *model.buffers()])
    sizes.append(_bytes(model))
    return model


def _critic(work: Work, config: Any, device: torch.device, meter: Meter) -> Any:
    """A model of this configuration with one number at each place."""
    from tempering.models.value import ValueModel

    whole = _counted(work, config, device, meter, [])
    with meter.fake, device:
        whole.score = nn.Linear(config.get_text_config().hidden_size, 1, bias=False)
    meter.add([whole.score.weight])
    return ValueModel.of(whole).eval()


def _bytes(model: nn.Module) -> int:
    """Of all parameters and buffers; what is tied counts once."""
    storages = [t.untyped_storage() for t in (*model.parameters(), *model.buffers())]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def _alike(config: Any, depth: int) -> bool:
    """Whether the blocks of the model all have parameters of the same names and shapes, and attend in the same way."""
    kinds = getattr(config.get_text_config(), "layer_types", None)
    model = build(config, torch.device("meta"))
    blocks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    shapes = [{tuple((name, p.shape) for name, p in block.named_parameters()) for block in list_} for list_ in blocks]
    return bool(blocks) and all(len(s) == 1 for s in shapes) and len(set(kinds or ())) <= 1


class _Twice:
    """A first group alone, for optimizer states to be made, then the micro-batch, which finds gradients in place; `marks` are the bytes alive as a
    step begins."""

    def __init__(self, micro: Parts, meter: Meter) -> None:
        self.micro, self.meter, self.marks, self.live = micro, meter, list[float](), list[Any]()

    @property
    def params(self) -> list[Any]:
        """All that trains."""
        return [p for live in self.live for p in live.handle.params.values()]

    def next(self, run: Run) -> Parts:
        """The step's parts."""
        self.live = [live for live in run.roles.values() if live.handle is not None]
        self.marks.append(self.meter.now)
        if len(self.marks) == 1:
            group = min(int(batch.group_S[0]) for batch in self.micro.values() if batch.num_segments)
            return {part: select(batch, batch.group_S == group) for part, batch in self.micro.items()}
        for p in self.params:
            p.grad = torch.zeros_like(p)
        self.meter.restart()
        return self.micro

    def state(self) -> dict[str, Any]:
        """Nothing: it never moves."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Nothing to put back."""


@contextmanager
def _hushed() -> Iterator[None]:
    """Torch prints the traceback of an operation that does not work on fake tensors, though it raises too."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextmanager
def _staying() -> Iterator[None]:
    """Modules that are told to move stay: everything is where it will be, and replacing parameters is more than fake tensors do."""
    move = nn.Module.to

    def stay(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        return module if len(args) == 1 and isinstance(args[0], str | torch.device) and not kwargs else move(module, *args, **kwargs)

    nn.Module.to = stay  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.to = move  # type: ignore[method-assign]


def _at(work: Work, config: Any) -> Counts:
    from tempering.rollouts.anchored import Following
    from tempering.signals import engine_for

    engine = engine_for(work.training)
    meter = Meter(config.get_text_config().vocab_size)
    sizes: list[int] = []
    model = _counted(work, config, engine.device, meter, sizes)
    # Copying storages that hold nothing is more than fake tensors do.
    model.__deepcopy__ = lambda _: _counted(work, config, engine.device, meter, sizes)
    roles = {"policy": Role(model, work.scope)}
    for name, role in work.beside.items():
        plain = replace(work, quantise="none")
        if name != "critic":
            # What trains counts with the policy, not with what stands still or follows beside it.
            still = role.scope is None or isinstance(role.scope, Following)
            other = _counted(plain, role.model.config, engine.device, meter, sizes if still else [])
            other.to = lambda *_, other=other: other
        else:
            other = _critic(plain, config, engine.device, meter)
        roles[name] = replace(role, model=other)
    stream = _Twice(work.micro, meter)
    # One micro-batch a step, whatever its size; what happens once at the end belongs to no step.
    how: dict[str, Any] = {"steps": 2, "optimizer": work.optimizer, "engine": engine}
    how["training"] = work.training.model_copy(update={"micro_tokens": 1 << 60, "eval_every": 0, "save_every": 0})
    how["columns"] = brought(work.objective, {part: (batch,) for part, batch in work.micro.items()})
    try:
        with meter, judging_apart(), _hushed(), _staying():
            fit(roles, work.objective, stream, **how)
    except (RuntimeError, NotImplementedError) as error:
        first = str(error).strip().split("\n")[0]
        raise UserError(
            f"{type(model).__name__} with this optimizer cannot be planned, because it asks for what is in its tensors, or for an operation that "
            f"does not work without ({first.rstrip('.')}); try the run itself with --steps 1"
        ) from error
    params = stream.params
    unseen = UNSEEN.get(work.optimizer.name.partition(":")[0], 0) if engine.device.type == "cpu" else 0
    gradients = sum(p.numel() * p.element_size() for p in params)
    before, between = stream.marks
    held = between + gradients
    # The most may be alive in the head's forward pass, before everything is kept.
    at_start, at_peak = (alive.total - alive.logits for alive in (meter.start, meter.peak))
    return Counts(
        parameters=sum(parameters(live.model) for live in stream.live),
        trainable=sum(p.numel() for p in params),
        weights=sum(_bytes(live.model) for live in stream.live),
        reference=sum(sizes[1:]),
        gradients=gradients,
        states=between - before,
        activations=min(at_start, at_peak) - held,
        logits=meter.peak.logits,
        working=max(0, at_peak - at_start),
        update=max(meter.after.total - held, unseen * max(p.numel() for p in params)),
    )
