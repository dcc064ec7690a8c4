"""Where a run is between two steps, and how that is kept in its folder and put back: weights, optimizers, counters, bests, stream and random numbers.

`metrics.jsonl` has one line a step. Checkpoints are started so early that a killed run never loses more than `every` steps: the steps that may be
made while one is being written are taken off the distance between them.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tempering import checkpoint
from tempering.coupling import Memory
from tempering.distributed import word
from tempering.distributed.world import ALONE, World
from tempering.errors import UserError
from tempering.home import write_atomic
from tempering.signals import Live
from tempering.types import Stream


class Progress:
    """The state of a run between steps.

    Args:
        live: attached roles; those with an optimizer train, and what else has parameters of its own is moved by its stream.
        folder: where metrics and checkpoints go; None keeps nothing.
        every: steps that a killed run loses at most; 0 writes a checkpoint only when the run is asked to stop.
        keep: how many checkpoints stay.
        memory: what the objective keeps between steps.
    """

    def __init__(
        self,
        live: Mapping[str, Live],
        optimizers: Mapping[str, torch.optim.Optimizer],
        stream: Stream,
        folder: Path | None,
        every: int,
        keep: int,
        say: Callable[[str], None],
        world: World = ALONE,
        memory: Memory | None = None,
    ) -> None:
        self.live, self.optimizers, self.stream, self.folder, self.every = live, optimizers, stream, folder, every
        self.keep, self.say, self.world, self.memory = keep, say, world, memory
        self.step, self.tokens, self.seconds, self.bad = 0, 0, 0.0, 0
        self.metrics: dict[str, Any] = {}
        self.best: dict[str, float] | None = None
        self.best_weights: dict[str, Tensor] | None = None
        self._saver: checkpoint.Saver | None = None

    def begin(self, resume: bool) -> None:
        """Open the folder: go on from its newest whole checkpoint, or start it anew."""
        if self.folder is None:
            return
        if not (resume and self._resume()):
            self.world.together(self._clear)
        self._saver = checkpoint.Saver(self.folder / "checkpoints", self.keep, self.step, self.say, self.world)

    def _clear(self) -> None:
        if self.world.first and self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self.folder / "metrics.jsonl", "")

    def weights(self) -> dict[str, Tensor]:
        """All parameters that move, as "role/name": those of an optimizer, and those of a role that follows another."""
        return {f"{name}/{p}": t for name, role in self.live.items() if role.handle is not None for p, t in role.handle.params.items()}

    def judge(self, metrics: Mapping[str, Any], keep_weights: bool) -> None:
        """Note whether this evaluation is the best so far; perhaps keep a copy of its weights."""
        if self.best is None or metrics["eval.loss"] < self.best["eval.loss"]:
            self.best, self.bad = {"step": metrics["step"], "eval.loss": metrics["eval.loss"]}, 0
            if keep_weights:
                self.best_weights = {name: t.detach().clone() for name, t in self.weights().items()}
        else:
            self.bad += 1

    def load_best(self) -> None:
        """Put the weights of the best evaluation back."""
        assert self.best_weights is not None
        with torch.no_grad():
            for name, t in self.weights().items():
                t.copy_(self.best_weights[name])

    def count(self, metrics: dict[str, Any]) -> None:
        """The step is done: one more line in metrics.jsonl, with null for numbers that JSON has no word for."""
        if self._saver is not None and self.every and self.step - self._saver.landed > self.every:
            self._saver.wait()
        self.metrics = metrics
        word.leave(step=self.step)
        if self.folder is None or not self.world.first:
            return
        finite = {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in metrics.items()}
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(finite) + "\n")

    # ------------------------------------------------------------------------------------------------------------------------------ checkpoints

    def save_if_due(self) -> None:
        """Start a checkpoint where one is due; it is written while training goes on."""
        if self._saver is not None and self.every and self.step % (self.every - self.every // 10) == 0:
            self._saver.start(self.step, *self._state())

    def save_now(self) -> None:
        """A checkpoint of this step, whole before this returns; nothing to do where there is one."""
        if self._saver is None:
            return
        self._saver.wait()
        if self._saver.landed != self.step:
            self._saver.start(self.step, *self._state())
            self._saver.wait()

    def close(self) -> None:
        """Wait for what is being written."""
        if self._saver is not None:
            self._saver.close()

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"weights/{name}": t for name, t in self.weights().items()}
        tensors |= {f"best/{name}": t for name, t in (self.best_weights or {}).items()}
        tensors |= {f"objective/{name}": t for name, t in self._kept().items()}
        tensors |= {f"{self._mine}/{name}": t for name, t in random_state().items()}
        states = {}
        for name, optimizer in self.optimizers.items():
            slots, states[name] = checkpoint.optimizer_state(optimizer, self._names(name))
            tensors |= {f"optimizer/{name}/{slot}": t for slot, t in slots.items()}
        plain = ("step", "tokens", "seconds", "bad", "best", "metrics")
        return tensors, {name: getattr(self, name) for name in plain} | {"stream": self.stream.state(), "optimizers": states}

    def _kept(self) -> dict[str, Tensor]:
        return {} if self.memory is None else self.memory.tensors()

    @property
    def _mine(self) -> str:
        return f"random/{self.world.hand}"

    def _names(self, role: str) -> dict[int, str]:
        return {id(p): name for name, p in self.live[role].handle.params.items()}  # type: ignore[union-attr]

    def _resume(self) -> bool:
        assert self.folder is not None
        found = checkpoint.newest(self.folder / "checkpoints", self.say, self.world)
        if found is None:
            self.say("no checkpoint to resume from; starting at step 0")
            return False
        path, state = found
        stored = checkpoint.shapes(path)
        weights = self.weights()
        other = f"the checkpoint in {self.folder} belongs to other"
        if {name: t.shape for name, t in weights.items()} != {
            n.removeprefix("weights/"): s for n, (s, _) in stored.items() if n.startswith("weights/")
        }:
            raise UserError(f"{other} parameters than this run trains; use its own settings, or another --out")
        kept = {f"objective/{name}": torch.empty_like(t) for name, t in self._kept().items()}
        if {n: (t.shape, t.dtype) for n, t in kept.items()} != {n: found for n, found in stored.items() if n.startswith("objective/")}:
            raise UserError(f"{other} state of the objective than this run keeps; use its own settings, or another --out")
        # An optimizer has no state before its first step; its own first step makes what the checkpoint then fills, sharded as the weights are.
        into = {f"weights/{name}": t.detach() for name, t in weights.items()}
        for name, optimizer in self.optimizers.items():
            checkpoint.prime(optimizer)
            slots, _ = checkpoint.optimizer_state(optimizer, self._names(name))
            if {f"optimizer/{name}/{slot}": t.shape for slot, t in slots.items()} != {
                n: s for n, (s, _) in stored.items() if n.startswith(f"optimizer/{name}/")
            }:
                raise UserError(f"{other} optimizers than this run uses; use its own settings, or another --out")
            into |= {f"optimizer/{name}/{slot}": t for slot, t in slots.items()}
        self.best_weights = {name: torch.empty_like(t.detach()) for name, t in weights.items() if f"best/{name}" in stored} or None
        into |= {f"best/{name}": t for name, t in (self.best_weights or {}).items()}
        numbers = {n: torch.empty(s, dtype=kind) for n, (s, kind) in stored.items() if n.startswith(f"{self._mine}/")}
        checkpoint.read(path, into | numbers | kept, self.world)
        if self.memory is not None:
            self.memory.load({name.removeprefix("objective/"): t for name, t in kept.items()})
        for name, optimizer in self.optimizers.items():
            checkpoint.restore_rest(optimizer, self._names(name), state["optimizers"][name])
        self.stream.load(state["stream"])
        # Where more processes go on than wrote it, the new ones keep the random numbers they were started with.
        set_random_state({name.removeprefix(f"{self._mine}/"): t for name, t in numbers.items()})
        self.step, self.tokens, self.seconds, self.bad = (state[name] for name in ("step", "tokens", "seconds", "bad"))
        self.best, self.metrics = state["best"], state["metrics"]
        self.world.together(self._cut_metrics)
        self.say(f"resumed at step {self.step}")
        return True

    def _cut_metrics(self) -> None:
        """A killed process may have left lines after the checkpoint, the last one perhaps torn."""
        if not self.world.first or self.folder is None:
            return
        path = self.folder / "metrics.jsonl"
        lines = [line for line in path.read_text().splitlines() if line.strip()] if path.exists() else []
        write_atomic(path, "".join(line + "\n" for line in lines[: self.step] if json.loads(line)["step"] <= self.step))


def random_state() -> dict[str, Tensor]:
    """The state of every generator that a run may draw from: torch, its GPU, Python and NumPy (those two as JSON)."""
    python, (kind, keys, *rest) = random.getstate(), np.random.get_state()
    host = json.dumps({"python": python, "numpy": [kind, np.asarray(keys).tolist(), *rest]})
    found = {"torch": torch.get_rng_state(), "host": torch.tensor(list(host.encode()), dtype=torch.uint8)}
    return found | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Put back what `random_state` gave; generators it does not name stay as they are."""
    if "torch" in state:
        torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    if "host" in state:
        host = json.loads(bytes(state["host"].tolist()))
        version, words, gauss = host["python"]
        random.setstate((version, tuple(words), gauss))
        kind, keys, *rest = host["numpy"]
        np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
