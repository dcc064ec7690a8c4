"""What this machine allows: the speed of the model's own matrix products, and of memory.

For every linear layer of SmolLM2-135M and the three products that training makes of it (output, gradient of the input, gradient of the weight), for
micro-batches of 256 to 2,048 tokens; for the output head in chunks; for decoding steps of 1 to 128 rows, where all layers' weights stream from
memory. In bfloat16 and float32, on every number of threads up to the cores. A speed is the median over repetitions; the roofline is the best of them
over sizes and threads, so that nothing a contender could choose is better than it.

    python -m benchmarks.roofline            # every size as a table
    python -m benchmarks.roofline --quick    # few sizes, in seconds; what the harness measures around every benchmark
    python -m benchmarks roofline            # stores the results
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import precision
from benchmarks.flops import SMOLLM2, Flops, Shape
from benchmarks.machine import commit, cores, describe

TOKENS = (256, 512, 1024, 2048)
CHUNKS = (128, 256, 512, 1024)
ROWS = (1, 8, 16, 32, 64, 128)
DTYPES = ("bfloat16", "float32")
"""Of the table; around a benchmark only what its contenders multiply in."""


@dataclass(frozen=True)
class Roofline:
    """The best speeds found for one type: GFLOP/s of the blocks' linear layers and of the head in training, tokens/s of a decoding step."""

    dtype: str
    linear: float
    head: float
    decode: float
    """New tokens a second that linear layers and head alone allow, at the best number of rows."""

    def seconds(self, flops: Flops) -> float:
        """Ideal time of training or prefill work. Attention's products are counted at the speed of the linear layers."""
        return (flops.linear + flops.attention) / (self.linear * 1e9) + flops.head / (self.head * 1e9)


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median time of a call, after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def products(tokens: int, inputs: int, outputs: int, dtype: Any) -> dict[str, Callable[[], object]]:
    """The three products of one linear layer in training, as autograd makes them."""
    import torch

    x, w, g = torch.randn(tokens, inputs, dtype=dtype), torch.randn(outputs, inputs, dtype=dtype), torch.randn(tokens, outputs, dtype=dtype)
    return {"output": lambda: torch.nn.functional.linear(x, w), "input": lambda: g.mm(w), "weight": lambda: g.t().mm(x)}


def training_speed(matrices: Iterable[tuple[int, int, int]], tokens: int, dtype: Any, repeats: int) -> dict[str, float]:
    """GFLOP/s of `matrices` (times, inputs, outputs) by product, and of all three together ("all"), each weighed by its operations."""
    spent, done = dict.fromkeys(("output", "input", "weight"), 0.0), 0.0
    for times, inputs, outputs in matrices:
        done += 2.0 * tokens * inputs * outputs * times
        for name, work in products(tokens, inputs, outputs, dtype).items():
            spent[name] += times * median_seconds(work, repeats)
    return {name: done / seconds / 1e9 for name, seconds in spent.items()} | {"all": 3 * done / sum(spent.values()) / 1e9}


def decoding_speed(shape: Shape, rows: int, dtype: Any, repeats: int) -> float:
    """New tokens a second if a decoding step were its linear layers and the head alone; every layer has weights of its own, as in the model."""
    import torch

    layers = [[torch.randn(o, i, dtype=dtype) for _, i, o in shape.matrices] for _ in range(shape.layers)]
    head = torch.randn(shape.vocabulary, shape.hidden, dtype=dtype)
    inputs = {i: torch.randn(rows, i, dtype=dtype) for i in {i for _, i, _ in shape.matrices}}

    def step() -> None:
        for layer in layers:
            for w in layer:
                torch.nn.functional.linear(inputs[w.shape[1]], w)
        torch.nn.functional.linear(inputs[shape.hidden], head)

    with torch.inference_mode():
        return rows / median_seconds(step, repeats)


def bandwidth(repeats: int, megabytes: int = 256) -> dict[str, float]:
    """GB/s of a copy (read and write) and of a = b + s c (two reads and a write) over arrays that no cache holds."""
    import torch

    a, b, c = (torch.ones(megabytes * 2**18) for _ in range(3))
    size = a.numel() * 4 / 1e9
    return {
        "copy": 2 * size / median_seconds(lambda: a.copy_(b), repeats),
        "triad": 3 * size / median_seconds(lambda: torch.add(b, c, alpha=3.0, out=a), repeats),
    }


def measured(shape: Shape = SMOLLM2, *, quick: bool = False, repeats: int = 7, dtypes: Sequence[str] = DTYPES) -> dict[str, Any]:
    """All speeds: {"linear": [...], "head": [...], "decode": [...], "memory": [...], "best": {dtype: Roofline}}, a row for each size and threads."""
    import torch

    counts: dict[tuple[int, int], int] = {}
    for _, i, o in shape.matrices:
        counts[i, o] = counts.get((i, o), 0) + 1
    blocks = [(n, i, o) for (i, o), n in sorted(counts.items())]
    head = (1, shape.hidden, shape.vocabulary)
    found: dict[str, Any] = {"linear": [], "head": [], "decode": [], "memory": []}
    for threads in range(1, cores() + 1):
        if quick and 1 < threads < cores():
            continue
        torch.set_num_threads(threads)
        for name in dtypes:
            dtype, where, few = getattr(torch, name), {"dtype": name, "threads": threads}, max(2, repeats // 2)
            for tokens in (512, 1024) if quick else TOKENS:
                found["linear"].append(where | {"tokens": tokens} | _rounded(training_speed(blocks, tokens, dtype, repeats)))
            for tokens in (256,) if quick else CHUNKS:
                found["head"].append(where | {"tokens": tokens} | _rounded(training_speed([head], tokens, dtype, few)))
            for rows in (64,) if quick else ROWS:
                found["decode"].append(where | {"rows": rows} | _rounded({"tokens_per_s": decoding_speed(shape, rows, dtype, few)}))
        found["memory"].append({"threads": threads} | _rounded(bandwidth(repeats)))
    found["best"] = {name: asdict(best(found, name)) for name in dtypes}
    return found


def best(found: dict[str, Any], dtype: str) -> Roofline:
    """The best over sizes and threads of one type."""

    def top(rows: str, column: str) -> float:
        return max(row[column] for row in found[rows] if row["dtype"] == dtype)

    return Roofline(dtype, top("linear", "all"), top("head", "all"), top("decode", "tokens_per_s"))


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in values.items()}


def show(found: dict[str, Any]) -> None:
    """The measurements as a table for people."""
    columns = ("output", "input", "weight", "all")
    for kind in ("linear", "head"):
        print(f"{kind:<7} dtype     threads  tokens " + " ".join(f"{column:>8}" for column in columns) + "  GFLOP/s")
        for row in found[kind]:
            speeds = " ".join(f"{row[column]:8.1f}" for column in columns)
            print(f"{'':<7} {row['dtype']:<9} {row['threads']:>7} {row['tokens']:>7} {speeds}")
    print("decode  dtype     threads    rows  tokens/s")
    for row in found["decode"]:
        print(f"{'':<7} {row['dtype']:<9} {row['threads']:>7} {row['rows']:>7} {row['tokens_per_s']:9.1f}")
    for row in found["memory"]:
        print(f"memory  {row['threads']} threads: copy {row['copy']} GB/s, triad {row['triad']} GB/s")
    for roof in found["best"].values():
        print(f"best    {roof['dtype']}: linear {roof['linear']} and head {roof['head']} GFLOP/s, decoding {roof['decode']} tokens/s")


def now() -> dict[str, Any]:
    """In a child: the quick measurement that the harness takes around every benchmark."""
    return {"best": measured(quick=True, dtypes=(precision.dtype(),))["best"]}


def full() -> dict[str, Any]:
    """In a child: every size."""
    return measured()


def measure(*, rounds: int | None = None, quick: bool = False, say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """The roofline as results: GFLOP/s and GB/s, without a peer; all sizes stand in results/roofline-sizes.json."""
    from benchmarks import children, harness

    say("== roofline")
    found = children.call(f"benchmarks.roofline:{'now' if quick else 'full'}", {})
    about = {"command": "python -m benchmarks roofline", "machine": describe()}
    if not quick:
        sizes = {kind: found[kind] for kind in ("linear", "head", "decode", "memory")}
        harness.RESULTS.mkdir(exist_ok=True)
        (harness.RESULTS / "roofline-sizes.json").write_text(json.dumps({**about, "commit": commit(), **sizes}, indent=1) + "\n")
    rows = []
    for dtype, best in found["best"].items():
        for kind, unit in (("linear", "GFLOP/s"), ("head", "GFLOP/s"), ("decode", "tokens/s")):
            rows.append(harness.row("roofline", "speed", [best[kind]], [], peer_name="no peer", unit=unit, phase=f"{kind}, {dtype}", **about))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few sizes")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    show(measured(quick=args.quick, repeats=args.repeats))


if __name__ == "__main__":
    main()
