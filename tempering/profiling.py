"""Profiling: where the time of some training steps goes, as a trace to open in Perfetto and as a short table.

    temper run sft --profile 5:3      # steps 6, 7 and 8

torch.profiler records every operator. The table says what share each phase of a step takes (ranges that `fit` and torch's optimizers name), what kind
of work it is, and which operators take longest by themselves. A kind is found by name, by what an operator stands in, and for the output head by the
vocabulary among its shapes; work in the backward pass belongs to the forward operator that it is the gradient of. On a GPU times are its own, by the
operator that launched the work. Recording slows a step down, small operators most: compare shares, not seconds.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from tempering.errors import UserError

TRACE, TABLE = "profile.json.gz", "profile.txt"
PHASES: tuple[str, ...] = ("data", "forward+backward", "optimizer")
"""The ranges of a step; `fit` names the first two, every torch optimizer the third."""
KINDS: tuple[str, ...] = ("matmul", "attention", "head", "optimizer", "data", "other")
TOP = 12

_STEP = "ProfilerStep"
_ATTENTION = re.compile(r"attention|attn|_segments", re.IGNORECASE)
_HEAD = re.compile(r"log_softmax|logsumexp|cross_entropy|nll_loss|_scores", re.IGNORECASE)
_MATMUL = re.compile(r"(aten|mkldnn|onednn)::_?(mm|addmm|bmm|baddbmm|linear|matmul|mkldnn_linear\w*|linear_pointwise|scaled_mm|int_mm)$")


@dataclass(frozen=True)
class Window:
    """Which steps are profiled: `steps` of them after the first `start` of this process."""

    start: int
    steps: int

    @staticmethod
    def parse(text: str) -> Window:
        """ "5:3" -> three steps after the fifth.

        Raises:
            UserError: anything else.
        """
        match = re.fullmatch(r"(\d{1,9}):(\d{1,4})", text.strip())
        if match is None or int(match[1]) < 1 or int(match[2]) < 1:
            raise UserError(f"--profile {text}: expected START:STEPS, both at least 1, for example 3:3 (three steps after the third)")
        return Window(int(match[1]), int(match[2]))


@contextmanager
def profiling(window: Window, folder: Path, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Inside it, what is given is called after every step; the window's steps end up in profile.json.gz and profile.txt in `folder`."""
    import torch
    from torch.profiler import ProfilerActivity, profile, schedule

    found: list[str] = []

    def ready(profiler: Any) -> None:
        profiler.export_chrome_trace(str(folder / TRACE))
        found.append(table(profiler.events(), on_device=torch.cuda.is_available()))
        (folder / TABLE).write_text(found[0], encoding="utf-8")

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    # The step before the window warms the profiler up: its first records are slow.
    plan = schedule(wait=window.start - 1, warmup=1, active=window.steps, repeat=1)
    profiler = profile(activities=activities, schedule=plan, record_shapes=True, on_trace_ready=ready)
    profiler.start()

    def stepped() -> None:
        if not found:
            profiler.step()

    try:
        yield stepped
    finally:
        profiler.stop()
    if found:
        say(f"{found[0]}\nprofile {folder / TRACE} (open it at ui.perfetto.dev), table {folder / TABLE}")
    else:
        say(f"nothing was profiled: the run ended before step {window.start + 1}; give an earlier window with --profile")


def table(events: Iterable[Any], *, on_device: bool) -> str:
    """The profiler's events in short.

    Args:
        events: torch's `FunctionEvent`s.
        on_device: whether the device's times count, rather than the processor's.
    """
    from torch.autograd import DeviceType

    host = [event for event in events if event.device_type == DeviceType.CPU]
    steps = [event for event in host if event.name.startswith(_STEP)]
    wall = sum(event.cpu_time_total for event in steps)
    phases = dict.fromkeys(PHASES, 0.0)
    for event in host:
        name = "optimizer" if event.name.startswith("Optimizer.step#") else event.name
        if name in phases:
            phases[name] += event.cpu_time_total
    kinds, own, calls = dict.fromkeys(KINDS, 0.0), defaultdict[str, float](float), Counter[str]()
    kind_of = _kinds(host)
    for event in host:
        spent = event.self_device_time_total if on_device else event.self_cpu_time_total
        if event.name.startswith(_STEP) or event.name in PHASES:
            # What lies in a range but in no operator is Python's.
            kinds["other"] += 0.0 if on_device else spent
            continue
        own[event.name] += spent
        calls[event.name] += 1
        kinds[kind_of[id(event)]] += spent
    total = sum(kinds.values())
    lines = [f"{len(steps)} steps, {wall / 1e6:.3f} s while recorded ({'device' if on_device else 'processor'} time below)", "", "phase of a step"]
    rest = max(0.0, wall - sum(phases.values()))
    lines += [_line(name, spent, wall) for name, spent in [*((name, phases[name]) for name in PHASES), ("rest", rest)]]
    lines += ["", "kind of work"] + [_line(kind, spent, total) for kind, spent in sorted(kinds.items(), key=itemgetter(1), reverse=True)]
    lines += ["", "operator, by its own time" + " " * 27 + "calls"]
    lines += [f"{_line(name[:48], spent, total)}  {calls[name]:7,}" for name, spent in sorted(own.items(), key=itemgetter(1), reverse=True)[:TOP]]
    return "\n".join(lines) + "\n"


def _line(name: str, spent: float, total: float) -> str:
    return f"  {name:48}  {spent / 1e3:10.1f} ms  {100 * spent / max(total, 1e-9):5.1f}%"


def _kinds(events: list[Any]) -> Mapping[int, str]:
    """id(event) -> kind of work."""
    vocabularies = {event.input_shapes[0][0] for event in events if event.name == "aten::embedding" and event.input_shapes and event.input_shapes[0]}
    forward: dict[int, str] = {}
    found: dict[int, str] = {}
    backward = []
    for event in events:
        chain = _chain(event)
        if any(link.name.startswith("autograd::engine::evaluate_function") for link in chain):
            backward.append((event, chain))
            continue
        found[id(event)] = kind = _kind(chain, vocabularies)
        if kind in ("attention", "head") and event.sequence_nr >= 0:
            forward[event.sequence_nr] = kind
    for event, chain in backward:
        own = _kind(chain, vocabularies)
        linked = next((forward[link.sequence_nr] for link in chain if link.sequence_nr in forward), own)
        found[id(event)] = own if own in ("attention", "head", "optimizer") else linked
    return found


def _chain(event: Any) -> list[Any]:
    """The event and what it stands in, innermost first."""
    chain = []
    while event is not None:
        chain.append(event)
        event = event.cpu_parent
    return chain


def _kind(chain: list[Any], vocabularies: set[int]) -> str:
    names = [event.name for event in chain]
    if any(name.startswith("Optimizer.") for name in names):
        return "optimizer"
    if any(_ATTENTION.search(name) for name in names):
        return "attention"
    looked_up = any("embedding" in name.lower() for name in names)
    if any(_HEAD.search(name) for name in names) or (not looked_up and any(_holds(event, vocabularies) for event in chain)):
        return "head"
    if any(_MATMUL.fullmatch(name) for name in names):
        return "matmul"
    return "data" if "data" in names else "other"


def _holds(event: Any, vocabularies: set[int]) -> bool:
    """Whether a matrix with the vocabulary as a dimension is among what the operator was given."""
    return any(len(shape) > 1 and not vocabularies.isdisjoint(shape) for shape in event.input_shapes or () if shape and isinstance(shape[0], int))
