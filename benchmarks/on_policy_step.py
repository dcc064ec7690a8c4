"""One on-policy step, from prompts to updated weights: 16 prompts, 8 samples of at most 64 tokens each, a reward, the clipped objective.

Against TRL's GRPOTrainer. Counted are sampled tokens; both sides draw at temperature 1 and end a sample at the end of the turn, so their numbers of
tokens differ by chance. One step, its first calls included: a step is minutes for the peer.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks import flops, harness, precision
from benchmarks.flops import SMOLLM2, Work
from benchmarks.harness import Benchmark, Contender, Target
from benchmarks.roofline import Roofline
from benchmarks.settings import SAMPLES


def limit(facts: Mapping[str, Any], best: Mapping[str, Any]) -> float:
    """Sampled tokens a second if every sample had all its tokens, prompts were computed once, and the rest were matrix products."""
    roof, work = Roofline(**best[precision.dtype()]), Work()
    for prompt, new in zip(facts["prompts"], facts["new"], strict=True):
        work += flops.shared(prompt, [new] * SAMPLES, new * SAMPLES)
    prefill, _ = flops.sample(SMOLLM2, facts["prompts"], [])
    made = SAMPLES * sum(facts["new"])
    return made / (roof.seconds(prefill) + made / roof.decode + roof.seconds(flops.full(SMOLLM2, work)))


BENCHMARK = Benchmark(
    "on_policy_step",
    ours=Contender("ours", "benchmarks.ours:on_policy", ({"micro_tokens": 4096},)),
    peers=(
        Contender("TRL GRPO", "benchmarks.trl_peers:grpo", ({"batch": 16}, {"batch": 8}), note="GRPOTrainer, generation by transformers' generate"),
    ),
    prepare="benchmarks.ours:prepare_prompts",
    inputs={"prompts": 16, "shortest": 64, "longest": 64},
    quick_inputs={"prompts": 2, "shortest": 8, "longest": 8},
    equal=("rows",),
    tolerance=None,
    limit=limit,
    targets={("speed", "TRL GRPO"): Target(least=3.0)},
)
measure = partial(harness.measure, BENCHMARK)
