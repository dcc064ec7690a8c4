"""Supervised fine-tuning of rank-16 adapters on all linear layers, on the rows of `sft_full`, against TRL with PEFT, packed and padded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks import harness, precision
from benchmarks.flops import SMOLLM2, Work, lora
from benchmarks.harness import Benchmark, Contender, Target
from benchmarks.roofline import Roofline
from benchmarks.settings import RANK


def limit(facts: Mapping[str, Any], best: Mapping[str, Any]) -> float:
    """Tokens a second if a step were its matrix products; the adapters' thin products are counted at the speed of the others."""
    work = Work(**facts["work"])
    return work.tokens / Roofline(**best[precision.dtype()]).seconds(lora(SMOLLM2, work, RANK))


BENCHMARK = Benchmark(
    "sft_lora",
    ours=Contender("ours", "benchmarks.ours:sft", ({"micro_tokens": 512, "rank": RANK},)),
    lean=Contender("ours, lean", "benchmarks.ours:sft", ({"micro_tokens": 256, "recompute_over": 32, "rank": RANK},)),
    peers=(
        Contender(
            "TRL packed",
            "benchmarks.trl_peers:sft",
            ({"pack": 1024, "batch": 1, "rank": RANK}, {"pack": 512, "batch": 2, "rank": RANK}),
            note="SFTTrainer with peft_config, packing=True, strategy bfd",
        ),
        Contender(
            "TRL padded",
            "benchmarks.trl_peers:sft",
            ({"batch": 4, "order": "batch_rebalance", "rank": RANK}, {"batch": 2, "order": "batch_rebalance", "rank": RANK}),
            note="SFTTrainer with peft_config, padded",
        ),
    ),
    prepare="benchmarks.ours:prepare_sft",
    inputs={"rows": 80, "per_step": 16, "max_length": 512},
    quick_inputs={"rows": 16, "per_step": 8, "max_length": 512},
    limit=limit,
    targets={
        (metric, f"TRL {kind}"): t for metric, t in (("speed", Target(least=2.0)), ("memory", Target(most=0.5))) for kind in ("packed", "padded")
    },
)
measure = partial(harness.measure, BENCHMARK)
