"""Where the time goes, by kind of operation: results/profile-NAME.json, and the profiler's own table beside it as text.

    python -m benchmarks.profile_step                 # SFT on the rows of sft_full and sft_lora, DPO on those of dpo, decoding on those of sampling
    python -m benchmarks.profile_step --only dpo

Every operation belongs to the outermost caller that has a rule below, so that what a backward pass calls is counted where its forward was. Head and
blocks are told apart by shapes: what has the vocabulary's size in it is the head's.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from benchmarks import children, dpo, harness, precision, sampling, sft_full, sft_lora
from benchmarks.machine import commit, describe

RULES: tuple[tuple[str, str], ...] = (
    ("optimizer", r"Optimizer|_fused_adam|_foreach_|clip_grad|linalg_vector_norm"),
    ("attention", r"scaled_dot_product|ScaledDotProduct|[Aa]ttention|[Aa]ttend|Segment|aten::bmm|aten::baddbmm|BmmBackward"),
    ("head", r"logsumexp|Logsumexp|log_softmax|LogSoftmax|LogProb|Logp|cross_entropy|nll_loss|NllLoss|Head|_Scores"),
    ("casts", r"aten::to$|aten::_to_copy|ToCopy"),
    ("linear", r"aten::linear|aten::addmm|aten::mm$|AddmmBackward|MmBackward|LinearBackward|mkldnn_linear|linear_pointwise"),
    ("embedding", r"[Ee]mbedding"),
    ("norms and activations", r"rsqrt|Rsqrt|pow|Pow|silu|Silu|aten::mul|MulBackward|aten::mean|MeanBackward|RMSNorm|rms_norm"),
)
"""(group, pattern of an operation's name): the first that fits the outermost caller that any fits."""
OTHER = "other"


class Event(Protocol):
    """What is used of torch.profiler's events."""

    name: str
    cpu_parent: Any
    input_shapes: Any
    self_cpu_time_total: float


def group_of(event: Event, vocabulary: int, known: dict[int, tuple[str, bool]] | None = None) -> str:
    """The group that an operation's own time belongs to.

    Args:
        known: what was found for operations of the same run, which others of it have among their callers; what is found is added.
    """
    group, of_head = _placed(event, vocabulary, {} if known is None else known)
    return "head" if group in ("linear", "casts") and of_head else group or OTHER


def _placed(event: Event, vocabulary: int, known: dict[int, tuple[str, bool]]) -> tuple[str, bool]:
    """The group of the outermost caller that has one, and whether the vocabulary's size occurs from it down to here."""
    chain: list[Any] = [event]
    while chain[-1] is not None and id(chain[-1]) not in known:
        chain.append(chain[-1].cpu_parent)
    found = known[id(chain[-1])] if chain[-1] is not None else ("", False)
    for one in reversed(chain[:-1]):
        group = found[0] or _group_of_name(one.name)
        found = known[id(one)] = (group, bool(group) and (found[1] or _has(one.input_shapes, vocabulary)))
    return found


@functools.cache
def _group_of_name(name: str) -> str:
    """By the rules alone; empty where none fits. The same few names come a million times."""
    return next((group for group, pattern in RULES if re.search(pattern, name)), "")


def _has(shapes: Any, size: int) -> bool:
    """Whether a size occurs in nested lists of shapes."""
    return any(_has(item, size) if isinstance(item, list | tuple) else item == size for item in shapes or ())


def seconds_by_group(events: Sequence[Event], vocabulary: int) -> dict[str, float]:
    """Processor seconds of every group, the largest first."""
    found, known = dict[str, float](), dict[int, tuple[str, bool]]()
    for event in events:
        group = group_of(event, vocabulary, known)
        found[group] = found.get(group, 0.0) + event.self_cpu_time_total / 1e6
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def profiled(contender: str, vocabulary: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """In a child: run a contender of `ours` and profile all its steps but the first, or its only one."""
    import torch
    from torch.profiler import ProfilerActivity

    from benchmarks import ours
    from benchmarks.child import Meter

    profiler = torch.profiler.profile(activities=[ProfilerActivity.CPU], record_shapes=True)
    start, step, state = Meter.start, Meter.step, {"steps": 0}
    planned = arguments["rows"] // arguments["per_step"] if "per_step" in arguments else 1

    def profiled_start(meter: Meter) -> None:
        if planned == 1:
            profiler.start()
        start(meter)

    def profiled_step(meter: Meter) -> None:
        step(meter)
        state["steps"] += 1
        if state["steps"] == planned:
            profiler.stop()
        elif state["steps"] == 1:
            profiler.start()

    Meter.start, Meter.step = profiled_start, profiled_step  # type: ignore[method-assign]
    report = getattr(ours, contender)(**arguments)
    table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=40, max_name_column_width=70)
    groups = seconds_by_group(profiler.events() or (), vocabulary)
    return report | {"groups": groups, "table": table}


def shares(groups: Mapping[str, float]) -> dict[str, float]:
    """Seconds to shares of their sum."""
    total = sum(groups.values())
    return {name: round(seconds / total, 4) for name, seconds in groups.items()}


def measure(benchmark: harness.Benchmark, contender: str, changed: Mapping[str, Any], vocabulary: int, say: Callable[[str], None] = print) -> None:
    """Profile our contender of a benchmark on that benchmark's rows, with these inputs changed, and store what comes out."""
    with tempfile.TemporaryDirectory(prefix="bench-profile-") as path:
        inputs = {"path": path, **benchmark.inputs, **changed}
        facts = children.call(benchmark.prepare, inputs)["facts"]
        arguments = {**inputs, **benchmark.ours.settings[0], "seed": 0}
        report = children.call("benchmarks.profile_step:profiled", {"contender": contender, "vocabulary": vocabulary, "arguments": arguments})
    content = {
        "benchmark": benchmark.name,
        "shares": shares(report["groups"]),
        "seconds": {name: round(value, 3) for name, value in report["groups"].items()},
        "steps_s": report["steps_s"],
        "tokens": report["tokens"],
        "threads": report["threads"],
        "setting": dict(benchmark.ours.settings[0]),
        "facts": facts,
        "command": f"python -m benchmarks.profile_step --only {benchmark.name}",
        "commit": commit(),
        "machine": describe(),
        "precision": precision.name(),
    }
    harness.RESULTS.mkdir(exist_ok=True)
    stem = precision.stem(f"profile-{benchmark.name}")
    (harness.RESULTS / f"{stem}.json").write_text(json.dumps(content, indent=1) + "\n")
    (harness.RESULTS / f"{stem}.txt").write_text(report["table"].rstrip() + "\n")
    say(f"{benchmark.name}: " + ", ".join(f"{name} {share:.0%}" for name, share in content["shares"].items()))


CASES: dict[str, tuple[harness.Benchmark, str, dict[str, Any]]] = {
    # The profiler keeps every operation in memory and takes a millisecond for each: two steps, of which the second is profiled (of DPO two pairs),
    # and at most 48 tokens where the benchmark makes up to 256, so that a prompt is no larger part of it than it has to be.
    "sft_full": (sft_full.BENCHMARK, "sft", {"rows": 32}),
    "sft_lora": (sft_lora.BENCHMARK, "sft", {"rows": 32}),
    "dpo": (dpo.BENCHMARK, "dpo", {"rows": 4, "per_step": 2}),
    "sampling": (sampling.BENCHMARK, "sampling", {"longest": 48}),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile_step", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=tuple(CASES))
    args = parser.parse_args()
    for name, (benchmark, contender, changed) in CASES.items():
        if args.only in (None, name):
            measure(benchmark, contender, changed, sft_full.SMOLLM2.vocabulary)


if __name__ == "__main__":
    main()
