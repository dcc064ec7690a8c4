"""Who samples a round: the trainer itself when it is asked to, or processes beside it under Ray, to which its weights are pushed by version.

Of several processes that train, each samples its share of a round, or the first asks those beside it and hands on what they say.

Both do the same with the same weights, so a run is the same whoever samples. A sampler that dies is replaced by Ray, which gives it the base model
again and asks it once more for what it had not answered; weights come with every question, so none is ever answered by others than it was asked of.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, Protocol

import torch

from tempering.distributed.world import ALONE, World
from tempering.errors import UserError
from tempering.rollouts.acting import Acting, Round
from tempering.rollouts.engine import installed
from tempering.rollouts.play import Begun
from tempering.types import Policy

Wait = Callable[[], Round]
"""Gives a round as soon as it is there; the same one however often it is called."""
REPLACED = 10
"""How often a sampler is replaced before the run gives up."""


class Samplers(Protocol):
    """Who samples."""

    waited: float
    """Seconds that the trainer had nothing to learn from, since it was last set to 0."""

    def submit(self, acting: Acting, model: torch.nn.Module, version: int, begin: int, begun: Sequence[Begun] = ()) -> Wait:
        """Ask for the round that begins at a visit, of the weights as they are at this moment.

        Args:
            version: a number of these weights, higher than that of any before.
            begun: conversations that an earlier round left open.
        """
        ...

    def close(self) -> None:
        """No more rounds; what was asked for and never waited for is dropped."""
        ...


class Here:
    """The trainer samples, at once; where it is several processes, all of them."""

    def __init__(self, world: World = ALONE) -> None:
        self.world, self.waited = world, 0.0

    def submit(self, acting: Acting, model: torch.nn.Module, version: int, begin: int, begun: Sequence[Begun] = ()) -> Wait:
        began = time.perf_counter()
        made = acting(model, begin, begun, self.world)
        self.waited += time.perf_counter() - began
        return lambda: made

    def close(self) -> None:
        """Nothing to end."""


class Led:
    """The first of several processes that train asks samplers; all get what these give."""

    def __init__(self, samplers: Samplers, world: World) -> None:
        self.samplers, self.world, self.waited = samplers, world, 0.0

    def submit(self, acting: Acting, model: torch.nn.Module, version: int, begin: int, begun: Sequence[Begun] = ()) -> Wait:
        # What goes wrong here is told by all.
        asked = self.world.together(lambda: self.samplers.submit(acting, model, version, begin, begun) if self.world.first else None)
        found = list[Round]()

        def wait() -> Round:
            if not found:
                began = time.perf_counter()
                found.append(self.world.lead(lambda: asked()))  # type: ignore[misc]
                self.waited += time.perf_counter() - began
            return found[0]

        return wait

    def close(self) -> None:
        self.samplers.close()


class _Sampler:
    """What runs in a process of its own: a copy of the policy, with the weights that it was last sent."""

    def __init__(self, given: Sequence[Any], threads: int) -> None:
        torch.set_num_threads(threads)
        self.acting, model = import_module("ray").get(list(given))
        self.engine, self.version = None, -1
        if self.acting.settings.engine == "vllm":
            from tempering.rollouts.engine import Engine

            # The GPU is vLLM's: here the policy only tells what it is and is written to folders.
            self.model, dtype = model, str(self.acting.dtype or next(model.parameters()).dtype).removeprefix("torch.")
            self.engine = Engine(Policy(model, self.acting.tokenizer), self.acting.settings.concurrent, dtype)
            self.acting = replace(self.acting, engine=self.engine.decoder)
        else:
            self.model = model.to("cuda" if torch.cuda.is_available() else "cpu")

    def ready(self) -> None:
        """It answers as soon as it is there."""

    def round(self, version: int, weights: dict[str, torch.Tensor], begin: int, begun: Sequence[Begun]) -> Round:
        """The round that begins at a visit, sampled with these weights."""
        if version != self.version:
            with torch.no_grad():
                own = dict(self.model.named_parameters())
                for name, weight in weights.items():
                    own[name].copy_(weight)
            if self.engine is not None:
                self.engine.load(Policy(self.model, self.acting.tokenizer))
            self.version = version
        return self.acting(self.model, begin, begun)


class Beside:
    """So many processes, started under Ray when the first round is asked for.

    Args:
        at: the address of a Ray cluster that they run on; this machine by default.

    Raises:
        UserError: Ray is not installed or does not start, the cluster cannot be reached or has no room, or a sampler died too often.
    """

    def __init__(self, count: int, at: str = "") -> None:
        self.count, self.at, self.waited = count, at, 0.0
        self.actors, self._given = list[Any](), list[Any]()
        self._ray: Any = None
        self._version, self._weights, self._asked = -1, None, 0

    def submit(self, acting: Acting, model: torch.nn.Module, version: int, begin: int, begun: Sequence[Begun] = ()) -> Wait:
        if not self.actors:
            self._start(acting, model)
        if version != self._version:
            # What never moves is with the samplers already.
            moved = {name: p.detach().cpu() for name, p in model.named_parameters() if p.requires_grad}
            self._version, self._weights = version, self._ray.put(moved)
        actor = self.actors[self._asked % self.count]
        self._asked += 1
        asked, found = actor.round.remote(version, self._weights, begin, list(begun)), list[Round]()

        def wait() -> Round:
            if not found:
                began = time.perf_counter()
                found.append(self._get(asked))
                self.waited += time.perf_counter() - began
            return found[0]

        return wait

    def close(self) -> None:
        if self._ray is not None:
            self._ray.shutdown()
        self.actors, self._given, self._ray, self._version = [], [], None, -1

    def _start(self, acting: Acting, model: torch.nn.Module) -> None:
        from tempering.distributed.ray import START_S, reached, start_here

        if acting.settings.engine == "vllm" and not self.at:
            installed()
        self._ray = reached("--samplers-at", self.at) if self.at else start_here("--samplers", self.count)
        gpus = min(1.0, self._ray.cluster_resources().get("GPU", 0) / self.count)
        kind = self._ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=REPLACED, max_task_retries=-1)(_Sampler)
        # Kept here, so that one that is started again finds them.
        there = model if next(model.parameters()).device.type == "cpu" else copy.deepcopy(model).cpu()
        self._given = [self._ray.put(acting), self._ray.put(there)]
        self.actors = [kind.remote(self._given, max(1, torch.get_num_threads() // self.count)) for _ in range(self.count)]
        try:
            self._ray.get([actor.ready.remote() for actor in self.actors] if self.at else [], timeout=START_S)
        except self._ray.exceptions.GetTimeoutError:
            raise UserError(
                f"--samplers-at {self.at}: it has no room for {self.count} samplers (each takes a core{' and a share of a GPU' if gpus else ''}); "
                "take fewer --samplers, or wait until it is free"
            ) from None
        except self._ray.exceptions.RayError as error:
            said = " ".join(str(error).split())[-200:]
            raise UserError(f"--samplers-at {self.at}: no sampler starts there; do all its machines have tempering? ({said})") from None

    def _get(self, asked: Any) -> Round:
        try:
            return self._ray.get(asked)
        except self._ray.exceptions.RayTaskError as error:
            # What went wrong while sampling is told as if it had happened here.
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            raise UserError(
                f"a sampler died {REPLACED} times and was replaced as often; take fewer --samplers or --rollouts.concurrent if memory is short "
                f"({type(error).__name__})"
            ) from None
