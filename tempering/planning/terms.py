"""Terms of memory, their sum at the worst moment, and whether it fits.

    held     = weights + frozen reference + optimizer states + best weights + the copy that checkpoints are written from
    passes   = held + gradients + activations + logits + working memory        the start of the last backward pass of a step
    update   = held + gradients + temporaries of the optimizer

On a CPU the process itself (the libraries; measured, not guessed) comes on top of both, and a share `HEAP` of what every step frees and allocates
again: the C library keeps freed blocks of up to 32 MiB for itself and finds no whole place for all the next ones (heap.py). On a GPU the process is
not on the card.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tempering.heap import settled
from tempering.models.quantise import settings
from tempering.planning.rehearse import Rehearsed
from tempering.planning.trace import Counts, Work, trace

HEAP = {True: 0.35, False: 0.8}
"""Share of activations, logits and working memory that the C library's heap adds to them where it is `settled`, and where not; measured by
benchmarks/plan.py. The gradients of all weights are freed together, and leave room for the next ones."""
GIB = 2**30


@dataclass(frozen=True)
class Term:
    """One kind of memory: its bytes, what it is, and whether it is there at the worst moment."""

    name: str
    bytes: int
    about: str
    at_peak: bool


@dataclass(frozen=True)
class Switch:
    """A setting that could save memory, and the peak with it in bytes."""

    flag: str
    peak: int


@dataclass(frozen=True)
class Plan:
    """What a run will need."""

    recipe: str
    model: str
    device: str
    parameters: int
    trainable: int
    tokens: int
    """Of the largest micro-batch."""
    moment: str
    """When the peak is."""
    terms: tuple[Term, ...]
    peak: int
    """Bytes."""
    free: int | None
    """Bytes that this machine has for it; None where that cannot be found out."""
    switches: tuple[Switch, ...] = ()

    @property
    def fits(self) -> bool | None:
        """Whether the peak is below what is free; None if that is unknown."""
        return None if self.free is None else self.peak <= self.free

    def sentence(self) -> str:
        """What it comes to, and what to do about it."""
        need = f"needs {self.peak / GIB:.1f} GiB at its peak ({self.moment})"
        if self.free is None:
            return f"The run {need}; how much is free here is unknown."
        where = f"{self.free / GIB:.1f} GiB are free {'here' if self.device == 'cpu' else 'on the GPU'}"
        if self.fits:
            return f"It fits: the run {need}, and {where}."
        enough = [s for s in self.switches if s.peak <= self.free]
        if enough:
            least = max(enough, key=lambda s: s.peak)
            return f"It does not fit: the run {need}, and {where}; with {least.flag} it needs {least.peak / GIB:.1f} GiB and fits."
        if not self.switches:
            return f"It does not fit: the run {need}, and {where}; there is no switch left that saves memory, so take a smaller model."
        best = min(self.switches, key=lambda s: s.peak)
        return f"It does not fit: the run {need}, and {where}; no switch alone is enough, the best is {best.flag} with {best.peak / GIB:.1f} GiB."

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with `fits` and `sentence`."""
        return asdict(self) | {"fits": self.fits, "sentence": self.sentence()}


def plan_of(recipe: str, found: Rehearsed) -> Plan:
    """Trace what a rehearsal found, and add it up.

    Raises:
        UserError: the model or the optimizer cannot be traced.
    """
    from tempering.signals import engine_for

    device = engine_for(found.work.training).device.type
    for package in packages(found.work):
        importlib.import_module(package)
    # What a run has loaded when it starts to train, before the tracing, whose own libraries it does not load.
    process = resident() if device == "cpu" else 0
    free = free_bytes(device)
    return add_up(recipe, found, trace(found.work), device, process, None if free is None else free + process)


def add_up(recipe: str, found: Rehearsed, counts: Counts, device: str, process: int, free: int | None) -> Plan:
    """The plan made of counts; `process` are the bytes of the libraries, `free` those that process and run may take together."""
    c = counts
    cpu = device == "cpu"
    best = c.gradients if found.best else 0
    copied = c.gradients + c.states + best if cpu and found.saves else 0
    held = c.weights + c.reference + c.states + best + copied
    kept = c.activations + c.logits + c.working
    depth = max(1, getattr(found.work.config.get_text_config(), "num_hidden_layers", 1))
    # With one micro-batch a step the first blocks' gradients come when the last blocks' activations have gone.
    late = c.logits + c.working + c.activations / depth
    churn = c.gradients + kept if found.accumulates else max(kept, c.gradients + late)
    heap = HEAP[settled()] * max(0, churn - c.gradients) if cpu else 0
    moments = {
        "forward and backward passes": held + churn + heap,
        "optimizer step": held + c.gradients + c.update + heap,
    }
    moment = max(moments, key=lambda name: moments[name])
    passes = moment == "forward and backward passes"
    early = passes and not found.accumulates and kept >= c.gradients + late
    rows = [
        ("process", process, "Python and the libraries", cpu),
        ("weights", c.weights, "parameters and buffers of what trains, with adapters", True),
        ("reference", c.reference, "a frozen copy of the start", True),
        ("optimizer states", c.states, "what the optimizer keeps of every trained weight", True),
        ("best weights", best, "trained weights of the best evaluation", True),
        ("gradients", c.gradients, "of every trained weight", not early),
        ("activations", c.activations if early or found.accumulates else c.activations / depth, "kept for the backward pass", passes),
        ("logits", c.logits, "scores over the vocabulary, a chunk at a time", passes),
        ("working memory", c.working, "casts, gradients of activations, recomputed blocks", passes),
        ("heap", heap, "freed blocks that the C library keeps", True),
        ("update", c.update, "temporaries of clipping and the optimizer", not passes),
        ("checkpoint copy", copied, "what checkpoints are written from", True),
    ]
    terms = tuple(Term(name, round(size), about, there) for name, size, about, there in rows if round(size) > 0)
    peak = sum(term.bytes for term in terms if term.at_peak)
    return Plan(recipe, found.model, device, round(c.parameters), round(c.trainable), found.tokens, moment, terms, peak, free)


def packages(work: Work) -> Iterator[str]:
    """Libraries that a run loads only when its scope or its optimizer wants them."""
    if getattr(work.scope, "kind", "") == "lora":
        yield "peft"
    if work.quantise in ("nf4", "int8") or work.optimizer.name.startswith("bitsandbytes:"):
        # Raises the sentence that says how to install it.
        settings("nf4")
        yield "bitsandbytes"


def resident() -> int:
    """Bytes of this process in memory."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        from tempering.measure import peak_memory_gib

        return int(peak_memory_gib() * GIB)


def free_bytes(device: str) -> int | None:
    """Bytes that are free where the model will be."""
    if device == "cuda":
        import torch

        return torch.cuda.mem_get_info()[0]
    from tempering.doctor import memory_bytes

    return memory_bytes()[1]
