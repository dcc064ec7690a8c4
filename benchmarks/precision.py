"""In what everyone multiplies matrices: bfloat16 over float32 weights, or float32 where the processor has no instructions for bfloat16.

There bfloat16 is emulated, some fifty times slower than float32, so nobody would train in it. Contenders run in processes of their own and find the
choice in the environment.
"""

from __future__ import annotations

import os
from typing import Any

from benchmarks.machine import describe

VARIABLE = "BENCH_PRECISION"
CHOICES = {"bf16": "bfloat16", "fp32": "float32"}


def name() -> str:
    """bf16 or fp32: what was chosen, or what suits the processor."""
    chosen = os.environ.get(VARIABLE)
    if chosen is not None and chosen not in CHOICES:
        raise ValueError(f"{VARIABLE}: expected bf16 or fp32, got {chosen!r}")
    return chosen or ("bf16" if any(flag.endswith("bf16") for flag in describe()["flags"]) else "fp32")


def dtype() -> str:
    """The same as torch calls it."""
    return CHOICES[name()]


def flag() -> str:
    """What a command line needs to choose it again; empty for bf16."""
    return "" if name() == "bf16" else " --precision fp32"


def stem(benchmark: str) -> str:
    """What a file with its results is called: float32 stands in files of its own."""
    return benchmark if name() == "bf16" else f"{benchmark}-fp32"


def torch_dtype() -> Any:
    """The same as torch's own value."""
    import torch

    return getattr(torch, dtype())


def autocast() -> Any:
    """A context in which matrix products of float32 weights are of this kind."""
    import torch

    return torch.autocast("cpu", torch.bfloat16, enabled=name() == "bf16")
