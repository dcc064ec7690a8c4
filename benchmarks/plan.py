"""Is `temper plan` right? Its predicted peak beside the largest memory that a child process took for the very run, on ten configurations.

    python -m benchmarks.plan [NAME...] [--model MODEL]

Each run is two optimizer steps of `temper run`, without the keep battery; its peak is the child's maximum resident set size as the system reports it.
The ratio is predicted / measured; within 0.85 to 1.15 is what is promised. Written to benchmarks/results/plan.json, in float32 to plan-fp32.json. Run
it again after the engine changed: the terms follow by themselves, the share that the C library's heap adds (`planning.terms.HEAP`) is measured here.
`heap` is the value that would have made the prediction exact.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks import harness, precision
from benchmarks.machine import commit, describe

GIB = 2**30
CONFIGURATIONS: dict[str, list[str]] = {
    "sft_full_2048": "sft --scope full --batch-size 64 --micro-tokens 2048".split(),
    "sft_full_2048_recompute_over_512": "sft --scope full --batch-size 64 --micro-tokens 2048 --recompute-over 512".split(),
    "sft_full_512": "sft --scope full --batch-size 32 --micro-tokens 512".split(),
    "sft_lora_2048": "sft --scope lora --batch-size 64 --micro-tokens 2048".split(),
    "sft_lora_bf16_2048": "sft --scope lora --quantise bf16 --batch-size 64 --micro-tokens 2048".split(),
    "sft_nf4_512": "sft --scope lora --quantise nf4 --batch-size 32 --micro-tokens 512".split(),
    "sft_full_512_8bit": "sft --scope full --optimizer bitsandbytes:AdamW8bit --batch-size 32 --micro-tokens 512".split(),
    "dpo_lora_512": "dpo --scope lora --batch-size 8 --micro-tokens 512".split(),
    "dpo_lora_2048": "dpo --scope lora --batch-size 32 --micro-tokens 2048".split(),
    "dpo_full_1024_checkpointing": "dpo --scope full --batch-size 16 --micro-tokens 1024 --checkpointing".split(),
}
"""Full and LoRA, with and without a reference, two sizes of micro-batch, with some and with all activations recomputed."""


def predict(words: list[str]) -> dict[str, Any]:
    """The plan as JSON."""
    child = subprocess.run([sys.executable, "-m", "tempering", "plan", *words, "--json"], capture_output=True, text=True, check=True)
    return json.loads(child.stdout)


def measure(words: list[str]) -> int:
    """Bytes that the run's process took at most."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tempering", "run", *words, "--out", f"{folder}/run", "--again"]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert child.stderr is not None
        with child.stderr:
            error = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"{' '.join(words)} failed: {error.decode()[-500:]}")
        # Kilobytes on Linux, bytes on macOS.
        return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def compare(name: str, model: str) -> dict[str, Any]:
    """One row of the result."""
    words = [*CONFIGURATIONS[name], "--model", model, "--steps", "2", "--keep", "none", "--max-test", "4", "--precision", precision.name()]
    plan, measured = predict(words), measure(words)
    heap = sum(term["bytes"] for term in plan["terms"] if term["name"] == "heap" and term["at_peak"])
    from tempering.planning.terms import HEAP

    # Both children are `temper`, which sets its heap.
    churn = heap / HEAP[True]
    return {
        "benchmark": "plan", "phase": name, "metric": "memory", "ours": plan["peak"], "peer": measured, "peer_name": "the run's own peak", "unit":
        "bytes", "ratio": plan["peak"] / measured, "runs": 1, "command": " ".join(["temper", "plan", *words]), "moment": plan["moment"], "heap":
        (measured - plan["peak"] + heap) / churn if churn else None, "terms": {t["name"]: t["bytes"] for t in plan["terms"]}, "commit": commit(),
        "machine": describe(), "precision": precision.name(), }  # fmt: skip


def main() -> None:
    """Print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", default=[], help=f"some of {', '.join(CONFIGURATIONS)}; all by default")
    parser.add_argument("--model", default="builtin:smollm2-135m")
    given = parser.parse_args()
    rows = []
    print(f"{'configuration':<30}{'predicted GiB':>14}{'measured GiB':>14}{'ratio':>8}{'heap':>7}  moment")
    for name in given.names or CONFIGURATIONS:
        row = compare(name, given.model)
        rows.append(row)
        heap = f"{row['heap']:.2f}" if row["heap"] is not None else ""
        print(f"{name:<30}{row['ours'] / GIB:>14.2f}{row['peer'] / GIB:>14.2f}{row['ratio']:>8.3f}{heap:>7}  {row['moment']}", flush=True)
    print(harness.store(precision.stem("plan"), rows))


if __name__ == "__main__":
    main()
