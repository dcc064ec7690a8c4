"""The only training loop. It knows roles, signals, one objective and one stream; it knows no method.

A step: the stream gives parts; the divisors are counted over all of them; they are cut into micro-batches; each micro-batch's share of the loss is
back-propagated; gradients are clipped; every trainable role's optimizer steps. What couples the whole step (`Objective.stats`) is taken
first, without gradient. What the run needs to go on to the same bits is in its checkpoints.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from tempering import attention, curvature, fused, late, optim
from tempering.ahead import Meta, standing
from tempering.config import Optimizer, Schedule, Training
from tempering.coupling import Memory, apart, couple
from tempering.distributed.shares import same, share
from tempering.distributed.world import ALONE, World, current
from tempering.errors import Interrupted, UserError
from tempering.layout import to
from tempering.models.later import release, waits
from tempering.models.lighter import lighter
from tempering.models.recompute import HOW, blocks
from tempering.progress import Progress
from tempering.reduce import count, reduce
from tempering.signals import Engine, Live, compute, engine_for, owner
from tempering.types import Context, Objective, Parts, Role, Run, Signals, Stream


@dataclass
class Means:
    """Collects logged tensors over the micro-batches of a step: the mean over all their elements."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def __call__(self, **values: Tensor) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach().float().sum())
            self.counts[name] = self.counts.get(name, 0) + value.numel()

    def means(self, world: World = ALONE) -> dict[str, float]:
        """name -> mean over all processes; names without elements are left out."""
        names = sorted(self.counts)
        totals = world.sums([*(self.sums[name] for name in names), *(self.counts[name] for name in names)])
        return {name: total / n for name, total, n in zip(names, totals, totals[len(names) :], strict=False) if n}


def total(
    roles: Mapping[str, Live],
    objective: Objective,
    micros: Iterable[Callable[[], Parts]],
    divisors: list[float],
    step: int,
    engine: Engine,
    log: Means,
    world: World = ALONE,
    memory: Memory | None = None,
) -> float:
    """The loss of one step, or of a whole evaluation set, over its micro-batches; with gradients enabled, each share is back-propagated at once.

    Args:
        micros: a call gives one micro-batch of this process, already on the device (called once more where the objective couples several).
        divisors: one for each term of the objective, counted over everything.
        memory: what the objective keeps between steps; with gradients enabled it goes one step on. None begins anew.
    """
    models = [role.model for role in roles.values()]
    # Around the backward pass too, where recomputed activations go forward again.
    with attention.segmented(*models), lighter(*models), fused.accumulating(world is ALONE):
        return _total(roles, objective, list(micros), divisors, step, engine, log, world, memory or Memory(objective, engine.device))


def _total(
    roles: Mapping[str, Live],
    objective: Objective,
    micros: list[Callable[[], Parts]],
    divisors: list[float],
    step: int,
    engine: Engine,
    log: Means,
    world: World,
    memory: Memory,
) -> float:
    terms = objective.terms()
    needs: dict[str, frozenset[str]] = {}
    for _, term in terms:
        for part, names in term.needs.items() if term.couples != "none" else ():
            needs[part] = needs.get(part, frozenset()) | names

    def prepared() -> Iterator[tuple[Parts, Signals]]:
        for micro in micros if needs else ():
            parts = micro()
            yield parts, compute(roles, parts, needs, engine)

    # A term that a schedule holds at 0 is not computed, and what it alone asks for (a teacher) is not either.
    scale = [coefficient(step) if callable(coefficient) else coefficient for coefficient, _ in terms]
    on = [i for i, (coefficient, _) in enumerate(terms) if scale[i] or not callable(coefficient)]
    asked = late.needs([terms[i][1] for i in on], engine)
    whole: tuple[Parts, Signals] | None = None
    if needs and len(micros) == 1:
        # The pass that the losses need anyway.
        parts = micros[0]()
        whole = parts, compute(roles, parts, asked, engine)
        coupled = couple(objective, [whole], world)
    else:
        with torch.no_grad():
            coupled = couple(objective, prepared(), world)
    if torch.is_grad_enabled():
        memory.advance(objective, coupled)
    loss_sum = 0.0
    for m, micro in enumerate(micros):
        parts = micro() if whole is None else whole[0]
        signals = compute(roles, parts, asked, engine) if whole is None else whole[1]
        loss = torch.zeros((), device=engine.device)
        for i in on:
            term = terms[i][1]
            mine = coupled[i].mine[m] if coupled[i].mine else slice(None)
            ctx = Context(step, coupled[i].stats, log, memory.of[i], mine)
            value = reduce(late.losses(term, parts, signals, ctx, roles, engine), term, parts[term.part], divisors[i])
            loss = loss + scale[i] * value
        if torch.is_grad_enabled() and loss.requires_grad:
            loss.backward()
        loss_sum += float(loss.detach())
    return world.sums([loss_sum])[0]


def count_terms(objective: Objective, batches: Iterable[Parts]) -> list[float]:
    """The divisor of each term over all given parts."""
    divisors = [0.0] * len(objective.terms())
    for parts in batches:
        for i, (_, term) in enumerate(objective.terms()):
            if term.part not in parts:
                raise ValueError(f"{type(term).__name__} needs part {term.part!r}; the stream yields {sorted(parts)}")
            divisors[i] = float(term.norm) if not isinstance(term.norm, str) else divisors[i] + count(term.norm, parts[term.part])
    return divisors


def _backward(
    live: Mapping[str, Live],
    parts: Parts,
    micros: list[Callable[[], Parts]],
    step: int,
    engine: Engine,
    world: World,
    log: Means,
    objective: Objective,
    logged: bool = False,
) -> float:
    """The loss of some objective on the parts of a step, with its gradients left on the parameters."""
    return total(live, objective, micros, count_terms(objective, [parts]), step, engine, log if logged else Means(), world)


@dataclass
class Evaluation:
    """Held-out rows for the same objective: `batches()` gives them all once, in parts."""

    batches: Callable[[], Iterable[Parts]]
    every: int = 0
    patience: int = 0
    keep_best: bool = True
    until: Callable[[Mapping[str, Live]], str] | None = None
    """Asked of the live roles at every evaluation: a sentence ends the training, which then keeps the weights it has."""


@dataclass(frozen=True)
class Fitted:
    """What training leaves: the live roles, the metrics of the last step, and the best evaluation."""

    roles: Mapping[str, Live]
    steps: int
    metrics: Mapping[str, float]
    best: Mapping[str, float] | None
    tokens: int
    seconds: float


class Stopper:
    """Asks the loop to stop at the next step boundary; set by signals (Ctrl-C, SIGTERM) or by tests."""

    def __init__(self) -> None:
        self.reason = ""

    def __call__(self, reason: str) -> None:
        self.reason = reason


def fit(
    roles: Mapping[str, Role],
    objective: Objective,
    stream: Stream,
    *,
    steps: int,
    optimizer: Optimizer | None = None,
    schedule: Schedule | None = None,
    training: Training | None = None,
    evaluation: Evaluation | None = None,
    folder: Path | None = None,
    resume: bool = False,
    seed: int = 0,
    engine: Engine | None = None,
    say: Callable[[str], None] = print,
    on_metrics: Callable[[Mapping[str, Any]], None] | None = None,
    stopper: Stopper | None = None,
    world: World | None = None,
    ahead: tuple[float, Objective] | Meta | None = None,
    columns: Collection[str] = (),
) -> Fitted:
    """Move the weights of the trainable roles by the gradient of `objective` on the parts of `stream`.

    Args:
        roles: models by name; "policy" is the one that trains by default.
        steps: optimizer steps.
        optimizer: for roles that bring none of their own.
        folder: where metrics.jsonl and checkpoints go; None keeps nothing.
        resume: go on from the newest whole checkpoint in `folder`, to the same bits (float32, one thread).
        seed: of initialisation and dropout.
        world: the processes that train together, each of which calls this with the same arguments; None takes those this one was started with.
            They share the weights and each step; the first writes, and alone has whole weights at the end.
        ahead: (rate, another objective of the same parts): the gradient is taken not at the weights but `rate` times this one's gradient away from
            them, uphill, and moves the weights themselves. Or an inner objective that is minimised too (ahead.py).
        columns: signals that every part of the stream and of the evaluation brings as columns, so that no reference need be kept for them.

    Raises:
        UserError: the loss is not finite, or the checkpoint belongs to other parameters.
        Interrupted: `stopper` was set; a checkpoint was written first.
    """
    optimizer, schedule, training = optimizer or Optimizer(), schedule or Schedule(), training or Training()
    engine = engine or engine_for(training)
    stopper = stopper or Stopper()
    world = world or current()
    torch.manual_seed(seed)
    for role in roles.values():
        if not waits(role.model):
            role.model.to(engine.device)
        elif world.size == 1:
            raise ValueError("a model whose weights are left in its files is for several processes; load it without `later`")
    live = {name: Live.attach(role) for name, role in sorted(roles.items())}
    for role in live.values():
        if waits(role.model):
            with role.replacing():
                release(role.model, engine.device)
    # What has parameters of its own and none with a gradient is moved by its stream (rollouts/anchored.py): checkpoints hold it, no optimizer does.
    trainable = {name: role for name, role in live.items() if role.handle is not None and any(p.requires_grad for p in role.handle.params.values())}
    if not trainable:
        raise ValueError("nothing trains: no role has a scope")
    frozen: list[torch.nn.Module] = []
    asked = {name for names in objective.needs.values() for name in names} - set(columns)
    if any(owner(name)[0] == "reference" for name in asked) and "reference" not in live:
        live["policy"].handle.keep_reference()  # type: ignore[union-attr]
        with live["policy"].handle.off() as reference:  # type: ignore[union-attr]
            frozen.append(reference)
    if (training.checkpointing or engine.recompute_over) and _of_views(asked, live["policy"]):
        raise UserError("recomputed activations would be those of the policy in another state; run it without --checkpointing and --recompute-over")
    for name, role in live.items():
        role.model.train(name in trainable)
        if training.checkpointing and name in trainable:
            role.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=HOW)  # type: ignore[operator]
        if engine.recompute_over and name in trainable and not blocks(role.model):
            raise UserError(f"--recompute-over: a {type(role.model).__name__} has no blocks that can be computed again; run it without")
    sharded = None
    if world.size > 1:
        # Takes seconds to import.
        from tempering.distributed.shard import Sharded

        sharded = Sharded(live, frozen, world, engine.device, engine.dtype)
        engine = replace(engine, run=sharded.run, late=False)
        # Initialisation was the same everywhere; dropout must not be.
        torch.manual_seed(seed + world.hand)
    settings = {name: roles[name].optimizer or optimizer for name in trainable}
    optimizers = {name: optim.build(settings[name], role.handle.params) for name, role in trainable.items()}  # type: ignore[union-attr]
    memory = Memory(objective, engine.device)
    moving = [p for role in live.values() if role.handle is not None for p in role.handle.params.values()]
    progress = Progress(live, optimizers, stream, folder, training.save_every, training.keep_checkpoints, say, world, memory)
    try:
        progress.begin(resume)
        while progress.step < steps:
            # A signal may reach the processes at different steps.
            if reason := next(filter(None, world.gather(stopper.reason)), ""):
                progress.save_now()
                raise Interrupted(f"stopped by {reason} at step {progress.step} of {steps}")
            began, log = time.perf_counter(), Means()
            with record_function("data"):
                parts = stream.next(Run(live, progress.step, seed, log, sharded))
                same(parts, progress.step, world)
                parts = to(parts, engine.device)
            divisors = count_terms(objective, [parts])
            micros = [(lambda m=micro: m) for micro in share(parts, training.micro_tokens, world)]
            backward = partial(_backward, live, parts, micros, progress.step, engine, world, log)
            with record_function("curvature"):
                curvature.take(optimizers, objective, parts, progress.step, backward)
            with record_function("forward+backward"), standing(ahead, moving, backward) as beside:
                loss = total(live, objective, micros, divisors, progress.step, engine, log, world, memory)
            loss += sum(beside)
            if not math.isfinite(loss):
                raise UserError(
                    f"the loss is {loss} at step {progress.step + 1}; lower the learning rate (--lr), or look for NaN in the data with temper check"
                )
            factor = optim.rate(schedule, progress.step, steps)
            metrics: dict[str, Any] = {
                "step": progress.step + 1,
                "loss": loss,
                "lr": settings.get("policy", optimizer).lr * factor,
                **log.means(world),
            }
            for name, opt in optimizers.items():
                params = [p for group in opt.param_groups for p in group["params"]]
                clip = torch.nn.utils.clip_grad_norm_ if sharded is None else sharded.clip
                metrics["grad_norm" if name == "policy" else f"{name}.grad_norm"] = float(clip(params, training.clip or math.inf))
                optim.set_rate(opt, settings[name].lr * factor)
                opt.step()
                opt.zero_grad(set_to_none=True)
            progress.step += 1
            progress.tokens += sum(batch.num_tokens for batch in parts.values())
            spent = time.perf_counter() - began
            progress.seconds += spent
            metrics |= {"tokens": progress.tokens, "tokens_per_s": sum(b.num_tokens for b in parts.values()) / max(spent, 1e-9)}
            last = progress.step == steps
            if evaluation is not None and (last or (evaluation.every and progress.step % evaluation.every == 0)):
                metrics |= evaluate(live, objective, evaluation, training, engine, progress.step, world, memory)
                progress.judge(metrics, evaluation.keep_best and evaluation.every > 0)
            progress.count(metrics)
            if on_metrics is not None:
                on_metrics(metrics)
            looks = evaluation is not None and evaluation.every and progress.step % evaluation.every == 0
            if evaluation is not None and evaluation.until and looks and (done := evaluation.until(live)):
                say(f"done at step {progress.step}: {done}")
                break
            if evaluation is not None and evaluation.patience and progress.bad >= evaluation.patience:
                say(f"stopped early at step {progress.step}: no better evaluation for {progress.bad} in a row")
                break
            if not last:
                progress.save_if_due()
    finally:
        progress.close()
        fused.forget()
    if evaluation is not None and evaluation.keep_best and progress.best is not None and progress.best["step"] != progress.step:
        progress.load_best()
        say(f"ending with the weights of step {progress.best['step']:.0f}, the best evaluation ({progress.best['eval.loss']:.4f})")
    if sharded is not None:
        sharded.gather()
    for role in live.values():
        # What was there for the training only is let go.
        getattr(role.handle, "finish", lambda: None)()
        role.model.eval()
    return Fitted(live, progress.step, progress.metrics, progress.best, progress.tokens, progress.seconds)


def _of_views(asked: Collection[str], policy: Live) -> set[str]:
    """Signals of the policy in another state, which it has left by the time of the backward pass."""
    return {name for name in asked if owner(name)[0] in getattr(policy.handle, "views", {})}


def evaluate(
    live: Mapping[str, Live],
    objective: Objective,
    evaluation: Evaluation,
    training: Training,
    engine: Engine,
    step: int,
    world: World = ALONE,
    memory: Memory | None = None,
) -> dict[str, float]:
    """The objective over the held-out rows, exactly as if they were one step: {"eval.loss": ..., "eval.margin": ...}. What it keeps between steps
    (`memory`) stays as it is."""
    modes = {name: role.model.training for name, role in live.items()}
    for role in live.values():
        role.model.eval()
    log = Means()
    with torch.no_grad():
        batches = apart(list(evaluation.batches()))
        divisors = count_terms(objective, batches)
        micros = [(lambda m=m: to(m, engine.device)) for parts in batches for m in share(parts, training.micro_tokens, world)]
        loss = total(live, objective, micros, divisors, step, engine, log, world, memory)
    for name, role in live.items():
        role.model.train(modes[name])
    return {"eval.loss": loss, **{f"eval.{name}": value for name, value in log.means(world).items()}}
