"""DPO of all weights with its reference, on UltraFeedback and demo pairs whose answers share a long prompt, against TRL's DPOTrainer.

A reference that is computed ahead of training is charged to the steps on both sides: every row is seen once, so neither saves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks import harness, precision
from benchmarks.flops import SMOLLM2, Work, forward, full
from benchmarks.harness import Benchmark, Contender, Target
from benchmarks.roofline import Roofline


def limit(facts: Mapping[str, Any], best: Mapping[str, Any]) -> float:
    """Tokens a second if a step were its matrix products with each prompt computed once; tokens count the prompt of both answers, as for the peer."""
    work = Work(**facts["work"])
    return facts["tokens"] / Roofline(**best[precision.dtype()]).seconds(full(SMOLLM2, work) + forward(SMOLLM2, work))


BENCHMARK = Benchmark(
    "dpo",
    ours=Contender("ours", "benchmarks.ours:dpo", ({"micro_tokens": 2048, "cached": True},)),
    lean=Contender("ours, lean", "benchmarks.ours:dpo", ({"micro_tokens": 1024, "cached": True, "recompute_over": 128},)),
    peers=(
        Contender(
            "TRL",
            "benchmarks.trl_peers:dpo",
            # Two pairs at a time, precomputed, were slower in every run: 134 tokens/s beside 159 in bfloat16, 49 beside 64 in float32.
            ({"batch": 1}, {"batch": 1, "precompute": True}),
            note="DPOTrainer, reference as a second model or precompute_ref_log_probs=True; padding_free falls back to padding in this release",
        ),
    ),
    prepare="benchmarks.ours:prepare_pairs",
    # In float32 a peer takes twenty seconds a row.
    inputs={"rows": 20 if precision.name() == "bf16" else 12, "per_step": 4, "max_length": 1024, "min_prompt": 200},
    quick_inputs={"rows": 4, "per_step": 2, "max_length": 512, "min_prompt": 150},
    tolerance=0.02,
    limit=limit,
    targets={("speed", "TRL"): Target(least=3.0), ("memory", "TRL"): Target(most=0.4)},
)
measure = partial(harness.measure, BENCHMARK)
