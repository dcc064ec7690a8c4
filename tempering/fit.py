"""The only training loop. It knows roles, signals, one objective and one stream; it knows no method.

A step: the stream gives parts; the divisors are counted over all of them; they are cut into micro-batches; each micro-batch's share of the loss is
back-propagated; gradients are clipped; every trainable role's optimizer steps. Sums that couple the whole step (`Objective.stats`) are taken first,
without gradient. What the run needs to go on to the same bits is in its checkpoints.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from tempering import attention, checkpoint, optim
from tempering.config import Optimizer, Schedule, Training
from tempering.errors import Interrupted, UserError
from tempering.layout import split, to
from tempering.models.lighter import lighter
from tempering.reduce import count, reduce
from tempering.signals import Engine, Live, compute, engine_for, owner
from tempering.types import Context, Objective, Parts, Role, Run, Stream


@dataclass
class Means:
    """Collects logged tensors over the micro-batches of a step: the mean over all their elements."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def __call__(self, **values: Tensor) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach().float().sum())
            self.counts[name] = self.counts.get(name, 0) + value.numel()

    def means(self) -> dict[str, float]:
        """name -> mean; names without elements are left out."""
        return {name: self.sums[name] / n for name, n in sorted(self.counts.items()) if n}


def total(
    roles: Mapping[str, Live],
    objective: Objective,
    micros: Iterable[Callable[[], Parts]],
    divisors: list[float],
    step: int,
    engine: Engine,
    log: Means,
) -> float:
    """The loss of one step, or of a whole evaluation set, over its micro-batches; with gradients enabled, each share is back-propagated at once.

    Args:
        micros: a call gives one micro-batch, already on the device (called once more when the objective couples the step).
        divisors: one for each term of the objective, counted over everything.
    """
    models = [role.model for role in roles.values()]
    # Around the backward pass too, where recomputed activations go forward again.
    with attention.segmented(*models), lighter(*models):
        return _total(roles, objective, list(micros), divisors, step, engine, log)


def _total(
    roles: Mapping[str, Live],
    objective: Objective,
    micros: list[Callable[[], Parts]],
    divisors: list[float],
    step: int,
    engine: Engine,
    log: Means,
) -> float:
    terms = objective.terms()
    stats: dict[int, dict[str, Tensor]] = {}
    coupled = [i for i, (_, term) in enumerate(terms) if term.couples == "sums"]
    if coupled:
        with torch.no_grad():
            for micro in micros:
                parts = micro()
                for i in coupled:
                    signals = compute(roles, parts, terms[i][1].needs, engine)
                    for name, value in terms[i][1].stats(parts, signals).items():
                        mine = stats.setdefault(i, {})
                        mine[name] = mine[name] + value if name in mine else value
    loss_sum = 0.0
    for micro in micros:
        parts = micro()
        signals = compute(roles, parts, objective.needs, engine)
        loss = torch.zeros((), device=engine.device)
        for i, (coefficient, term) in enumerate(terms):
            value = reduce(term(parts, signals, Context(step, stats.get(i, {}), log)), term, parts[term.part], divisors[i])
            loss = loss + (coefficient(step) if callable(coefficient) else coefficient) * value
        if torch.is_grad_enabled() and loss.requires_grad:
            loss.backward()
        loss_sum += float(loss.detach())
    return loss_sum


def count_terms(objective: Objective, batches: Iterable[Parts]) -> list[float]:
    """The divisor of each term over all given parts."""
    divisors = [0.0] * len(objective.terms())
    for parts in batches:
        for i, (_, term) in enumerate(objective.terms()):
            if term.part not in parts:
                raise ValueError(f"{type(term).__name__} needs part {term.part!r}; the stream yields {sorted(parts)}")
            divisors[i] = float(term.norm) if not isinstance(term.norm, str) else divisors[i] + count(term.norm, parts[term.part])
    return divisors


@dataclass
class Evaluation:
    """Held-out rows for the same objective: `batches()` gives them all once, in parts."""

    batches: Callable[[], Iterable[Parts]]
    every: int = 0
    patience: int = 0
    keep_best: bool = True


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
) -> Fitted:
    """Move the weights of the trainable roles by the gradient of `objective` on the parts of `stream`.

    Args:
        roles: models by name; "policy" is the one that trains by default.
        steps: optimizer steps.
        optimizer: for roles that bring none of their own.
        folder: where metrics.jsonl and checkpoints go; None keeps nothing.
        resume: go on from the newest whole checkpoint in `folder`, to the same bits (float32, one thread).
        seed: of initialisation and dropout.

    Raises:
        UserError: the loss is not finite, or the checkpoint belongs to other parameters.
        Interrupted: `stopper` was set; a checkpoint was written first.
    """
    optimizer, schedule, training = optimizer or Optimizer(), schedule or Schedule(), training or Training()
    engine = engine or engine_for(training)
    stopper = stopper or Stopper()
    torch.manual_seed(seed)
    for role in roles.values():
        role.model.to(engine.device)
    live = {name: Live.attach(role) for name, role in sorted(roles.items())}
    trainable = {name: role for name, role in live.items() if role.handle is not None}
    if not trainable:
        raise ValueError("nothing trains: no role has a scope")
    if any(owner(s)[0] == "reference" for names in objective.needs.values() for s in names) and "reference" not in live:
        live["policy"].handle.keep_reference()  # type: ignore[union-attr]
    settings = {name: roles[name].optimizer or optimizer for name in trainable}
    optimizers = {name: optim.build(settings[name], role.handle.params) for name, role in trainable.items()}  # type: ignore[union-attr]
    for role in live.values():
        role.model.train(role.handle is not None)
        if training.checkpointing and role.handle is not None:
            role.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]

    loop = _Loop(live, optimizers, stream, folder, training.keep_checkpoints)
    if resume and folder is not None:
        loop.resume(say)
    elif folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").write_text("")
    saved_at = loop.step
    while loop.step < steps:
        if stopper.reason:
            if folder is not None and saved_at != loop.step:
                loop.save()
            raise Interrupted(f"stopped by {stopper.reason} at step {loop.step} of {steps}")
        began = time.perf_counter()
        with record_function("data"):
            parts = to(stream.next(Run(live, loop.step, seed)), engine.device)
        divisors = count_terms(objective, [parts])
        log = Means()
        micros = [(lambda m=micro: m) for micro in split(parts, training.micro_tokens)]
        with record_function("forward+backward"):
            loss = total(live, objective, micros, divisors, loop.step, engine, log)
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} at step {loop.step + 1}; lower the learning rate (--lr), or look for NaN in the data with temper check"
            )
        factor = optim.rate(schedule, loop.step, steps)
        metrics: dict[str, Any] = {"step": loop.step + 1, "loss": loss, "lr": settings.get("policy", optimizer).lr * factor, **log.means()}
        for name, opt in optimizers.items():
            params = [p for group in opt.param_groups for p in group["params"]]
            norm = torch.nn.utils.clip_grad_norm_(params, training.clip if training.clip is not None else math.inf)
            metrics["grad_norm" if name == "policy" else f"{name}.grad_norm"] = float(norm)
            optim.set_rate(opt, settings[name].lr * factor)
            opt.step()
            opt.zero_grad(set_to_none=True)
        loop.step += 1
        loop.tokens += sum(batch.num_tokens for batch in parts.values())
        spent = time.perf_counter() - began
        loop.seconds += spent
        metrics |= {"tokens": loop.tokens, "tokens_per_s": sum(b.num_tokens for b in parts.values()) / max(spent, 1e-9)}
        last = loop.step == steps
        if evaluation is not None and (last or (evaluation.every and loop.step % evaluation.every == 0)):
            metrics |= evaluate(live, objective, evaluation, training, engine, loop.step)
            loop.judge(metrics, evaluation)
        loop.metrics = metrics
        loop.write(metrics)
        if on_metrics is not None:
            on_metrics(metrics)
        if evaluation is not None and evaluation.patience and loop.bad >= evaluation.patience:
            say(f"stopped early at step {loop.step}: no better evaluation for {loop.bad} in a row")
            break
        if folder is not None and training.save_every and loop.step % training.save_every == 0 and not last:
            loop.save()
            saved_at = loop.step
    if evaluation is not None and evaluation.keep_best and loop.best is not None and loop.best["step"] != loop.step:
        loop.load_best()
        say(f"ending with the weights of step {loop.best['step']:.0f}, the best evaluation ({loop.best['eval.loss']:.4f})")
    for role in live.values():
        role.model.eval()
    return Fitted(live, loop.step, loop.metrics, loop.best, loop.tokens, loop.seconds)


def evaluate(
    live: Mapping[str, Live], objective: Objective, evaluation: Evaluation, training: Training, engine: Engine, step: int
) -> dict[str, float]:
    """The objective over the held-out rows, exactly as if they were one step: {"eval.loss": ..., "eval.margin": ...}."""
    modes = {name: role.model.training for name, role in live.items()}
    for role in live.values():
        role.model.eval()
    log = Means()
    with torch.no_grad():
        batches = list(evaluation.batches())
        divisors = count_terms(objective, batches)
        micros = [(lambda m=m: to(m, engine.device)) for parts in batches for m in split(parts, training.micro_tokens)]
        loss = total(live, objective, micros, divisors, step, engine, log)
    for name, role in live.items():
        role.model.train(modes[name])
    return {"eval.loss": loss, **{f"eval.{name}": value for name, value in log.means().items()}}


class _Loop:
    """The state of a run between steps, and how it is saved and put back."""

    def __init__(
        self, live: Mapping[str, Live], optimizers: Mapping[str, torch.optim.Optimizer], stream: Stream, folder: Path | None, keep: int
    ) -> None:
        self.live, self.optimizers, self.stream, self.folder, self.keep = live, optimizers, stream, folder, keep
        self.step, self.tokens, self.seconds, self.bad = 0, 0, 0.0, 0
        self.metrics: dict[str, Any] = {}
        self.best: dict[str, float] | None = None
        self.best_weights: dict[str, Tensor] | None = None

    def weights(self) -> dict[str, Tensor]:
        """All trained parameters as "role/name"."""
        return {f"{name}/{p}": t for name in self.optimizers for p, t in self.live[name].handle.params.items()}  # type: ignore[union-attr]

    def judge(self, metrics: Mapping[str, Any], evaluation: Evaluation) -> None:
        """Note whether this evaluation is the best so far; keep a copy of its weights."""
        if self.best is None or metrics["eval.loss"] < self.best["eval.loss"]:
            self.best, self.bad = {"step": metrics["step"], "eval.loss": metrics["eval.loss"]}, 0
            if evaluation.keep_best and evaluation.every:
                self.best_weights = {name: t.detach().clone() for name, t in self.weights().items()}
        else:
            self.bad += 1

    def load_best(self) -> None:
        """Put the weights of the best evaluation back."""
        assert self.best_weights is not None
        with torch.no_grad():
            for name, t in self.weights().items():
                t.copy_(self.best_weights[name])

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl; numbers that JSON has no word for become null."""
        if self.folder is None:
            return
        finite = {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in metrics.items()}
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(finite) + "\n")

    def save(self) -> None:
        """Write a checkpoint."""
        assert self.folder is not None
        tensors = {f"weights/{name}": t for name, t in self.weights().items()}
        tensors |= {f"best/{name}": t for name, t in (self.best_weights or {}).items()}
        tensors["rng"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        states = {}
        for name, opt in self.optimizers.items():
            mine, states[name] = checkpoint.optimizer_tensors(opt, f"optimizer/{name}")
            tensors |= mine
        rest = {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "bad": self.bad,
            "best": self.best,
            "metrics": self.metrics,
            "stream": self.stream.state(),
            "optimizers": states,
        }
        checkpoint.save(self.folder / "checkpoints", self.step, tensors, rest, self.keep)

    def resume(self, say: Callable[[str], None]) -> None:
        """Go on from the newest whole checkpoint; from the start if there is none."""
        assert self.folder is not None
        found = checkpoint.newest(self.folder / "checkpoints", say)
        if found is None:
            say("no checkpoint to resume from; starting at step 0")
            (self.folder / "metrics.jsonl").write_text("")
            return
        tensors, rest = found
        now = self.weights()
        then = {name.removeprefix("weights/"): t for name, t in tensors.items() if name.startswith("weights/")}
        if {n: t.shape for n, t in now.items()} != {n: t.shape for n, t in then.items()}:
            raise UserError(
                f"the checkpoint in {self.folder} belongs to other parameters than this run trains; use its own settings, or another --out"
            )
        with torch.no_grad():
            for name, t in now.items():
                t.copy_(then[name])
        best = {name.removeprefix("best/"): t for name, t in tensors.items() if name.startswith("best/")}
        self.best_weights = best or None
        for name, opt in self.optimizers.items():
            checkpoint.load_optimizer(opt, f"optimizer/{name}", tensors, rest["optimizers"][name])
        self.stream.load(rest["stream"])
        torch.set_rng_state(tensors["rng"])
        if "rng.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["rng.cuda"])
        self.step, self.tokens, self.seconds, self.bad = rest["step"], rest["tokens"], rest["seconds"], rest["bad"]
        self.best, self.metrics = rest["best"], rest["metrics"]
        path = self.folder / "metrics.jsonl"
        lines = [line for line in path.read_text().splitlines() if line.strip()] if path.exists() else []
        # A killed process may have left lines after the checkpoint, the last one perhaps torn.
        path.write_text("".join(line + "\n" for line in lines[: self.step] if json.loads(line)["step"] <= self.step))
        say(f"resumed at step {self.step}")
