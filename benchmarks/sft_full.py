"""Supervised fine-tuning of all weights on real rows of mixed lengths (Alpaca and GSM8K), float32 weights.

Against TRL padded, TRL packed, and a plain loop that sorts by length and scores only trained tokens. Rows a step, scored tokens and length limit are
the same; a packed step of TRL's has as many rows on average, because packs are built over all rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks import harness, precision
from benchmarks.flops import SMOLLM2, Work, full
from benchmarks.harness import Benchmark, Contender, Target
from benchmarks.roofline import Roofline


def limit(facts: Mapping[str, Any], best: Mapping[str, Any]) -> float:
    """Tokens a second if a step were its matrix products."""
    work = Work(**facts["work"])
    return work.tokens / Roofline(**best[precision.dtype()]).seconds(full(SMOLLM2, work))


def share_wanted() -> float:
    """What the project asks of the roofline depends on the kind of processor: with AMX tiles the products are no longer what takes the time."""
    from benchmarks.machine import describe

    return 0.3 if "amx_bf16" in describe()["flags"] else 0.6


BENCHMARK = Benchmark(
    "sft_full",
    ours=Contender("ours", "benchmarks.ours:sft", ({"micro_tokens": 1024},)),
    lean=Contender("ours, lean", "benchmarks.ours:sft", ({"micro_tokens": 256, "recompute_over": 64},)),
    peers=(
        Contender(
            "TRL packed",
            "benchmarks.trl_peers:sft",
            ({"pack": 1024, "batch": 1}, {"pack": 512, "batch": 2}),
            note="SFTTrainer, packing=True, strategy bfd, SDPA attention with a block-diagonal mask",
        ),
        Contender(
            "TRL padded",
            "benchmarks.trl_peers:sft",
            # Eight rows at a time, and four in the order they come, were tried once: 124 and 145 tokens/s beside 186 of two.
            ({"batch": 2, "order": "batch_rebalance"}, {"batch": 4, "order": "batch_rebalance"}),
            note="SFTTrainer, padded to the longest row of a forward pass; the log-probs in chunks, TRL's default",
        ),
        Contender("plain loop", "benchmarks.plain:sft", ({"micro_tokens": 1024},), note="sorted by length in a step"),
    ),
    prepare="benchmarks.ours:prepare_sft",
    inputs={"rows": 80 if precision.name() == "bf16" else 48, "per_step": 16, "max_length": 512},
    quick_inputs={"rows": 16, "per_step": 8, "max_length": 512},
    limit=limit,
    targets={
        ("speed", "TRL packed"): Target(least=2.5),
        ("speed", "TRL padded"): Target(least=4.0),
        ("memory", "TRL packed"): Target(most=0.5),
        ("memory", "TRL padded"): Target(most=0.5),
        ("share", ""): Target(least=share_wanted(), of="share"),
    },
)
measure = partial(harness.measure, BENCHMARK)
