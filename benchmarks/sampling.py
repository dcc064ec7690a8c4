"""Sampling for 64 prompts that want 16 to 256 new tokens each, greedy, against transformers' `generate`.

`generate` runs a batch until its longest request ends. It gets the requests sorted by how much they want and the batch size that suits it best;
only the tokens that were asked for count.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks import flops, harness, precision
from benchmarks.harness import Benchmark, Contender, Target
from benchmarks.roofline import Roofline


def limit(facts: Mapping[str, Any], best: Mapping[str, Any]) -> float:
    """New tokens a second if prefill were its products, and a decoding step its linear layers and head at the best number of rows."""
    roof = Roofline(**best[precision.dtype()])
    prefill, _ = flops.sample(flops.SMOLLM2, facts["prompts"], facts["new"])
    return sum(facts["new"]) / (roof.seconds(prefill) + sum(facts["new"]) / roof.decode)


BENCHMARK = Benchmark(
    "sampling",
    ours=Contender("ours", "benchmarks.ours:sampling", ({"max_rows": 64},)),
    peers=(Contender("generate", "benchmarks.plain:sampling", tuple({"batch": n} for n in (16, 32, 64)), note="transformers, sorted by length"),),
    prepare="benchmarks.ours:prepare_prompts",
    inputs={"prompts": 64, "shortest": 16, "longest": 256},
    quick_inputs={"prompts": 8, "shortest": 4, "longest": 16},
    tolerance=None,
    limit=limit,
    targets={("speed", "generate"): Target(least=4.0)},
)
measure = partial(harness.measure, BENCHMARK)
