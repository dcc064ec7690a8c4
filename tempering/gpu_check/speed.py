"""How fast is it, and in how much memory? A few steps of training a random model of 1.2 billion weights in bfloat16."""

from __future__ import annotations

from statistics import median
from typing import Any

from tempering.gpu_check.bench import Bench, NotHere


def speed(bench: Bench, work: str, peaks: dict[str, float]) -> float:
    """Tokens per second of the median step of a few steps of one kind of training in bfloat16; the GPU's peak memory in GiB goes into `peaks`."""
    import torch

    from tempering.config import Optimizer, Training
    from tempering.data.streams import Shuffled
    from tempering.fit import fit
    from tempering.methods.objectives.dpo import DPO
    from tempering.methods.objectives.nll import NLL
    from tempering.methods.scopes.full import Full
    from tempering.methods.scopes.lora import LoRA
    from tempering.signals import Engine
    from tempering.types import Role

    on_gpu = bench.device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    model = bench.big()
    parts = ("chosen", "rejected") if work == "dpo" else ("train",)
    rows = bench.rows(16, parts, longest=40 if bench.small else 1024, vocabulary=model.config.vocab_size)
    rates: list[float] = []
    scope: Any = Full() if work == "sft_full" else LoRA(r=16)
    try:
        fit(
            {"policy": Role(model, scope)}, DPO() if work == "dpo" else NLL(), Shuffled(rows, 8, seed=0), steps=3 if bench.small else 8,
            optimizer=Optimizer(lr=1e-5), training=Training(micro_tokens=8192), engine=Engine(dtype=torch.bfloat16, device=bench.device),
            say=lambda _: None, on_metrics=lambda m: rates.append(m["tokens_per_s"]),
        )  # fmt: skip
    except torch.OutOfMemoryError:
        raise NotHere("the GPU's memory is too small for this") from None
    if on_gpu:
        peaks[work] = torch.cuda.max_memory_allocated() / 2**30
    # The first steps pay for warming up.
    return median(rates[2:])


def peak(peaks: dict[str, float], work: str) -> float:
    """What `speed` measured for one kind of training."""
    if work not in peaks:
        raise NotHere("no GPU whose memory to read, or the run before did not end")
    return peaks[work]
