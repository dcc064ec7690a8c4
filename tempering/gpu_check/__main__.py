"""The command: runs every check, prints a table, writes the JSON."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from tempering.gpu_check.bench import Bench, NotHere
from tempering.gpu_check.exact import FP32, exact, resume, sampling
from tempering.gpu_check.several import apart
from tempering.gpu_check.speed import peak, speed

RESULTS = Path("benchmarks/results")


@dataclass(frozen=True)
class Check:
    """One outcome."""

    name: str
    passed: bool | None
    value: float | None
    bound: float | None
    seconds: float
    note: str = ""


def checks(bench: Bench, report: Callable[[Check], None]) -> list[Check]:
    """Every check, one after the other; one that raises has failed."""
    done: list[Check] = []

    def note(name: str, bound: float | None, action: Callable[[], float]) -> None:
        began, value, passed, said = time.perf_counter(), None, None, ""
        try:
            value = action()
            passed = math.isfinite(value) and (bound is None or value <= bound)
        except NotHere as lack:
            said = f"not here: {lack}"
        except Exception as error:
            passed, said = False, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        done.append(
            Check(name, passed, value if value is not None and math.isfinite(value) else None, bound, round(time.perf_counter() - began, 3), said)
        )
        report(done[-1])

    for name, bound, action in exact(bench):
        note(name, bound, action)
    note("resume.bits", 0.0, partial(resume, bench))
    for name, bound, action in sampling(bench):
        note(name, bound, action)
    peaks: dict[str, float] = {}
    for work in ("sft_full", "sft_lora", "dpo"):
        note(f"{work}.tokens_per_s", None, partial(speed, bench, work, peaks))
        note(f"{work}.peak_gib", None, partial(peak, peaks, work))
    note("compile", None, _compile)
    for how, tensor in (("pieces", 1), ("tensor", 2)):
        note(f"two_gpus.{how}", FP32, partial(_two_gpus, bench, tensor))
    return done


def _compile() -> float:
    from tempering.signals import Engine

    if not any("compile" in field.name for field in fields(Engine)):
        raise NotHere("the engine has no switch for torch.compile")
    return 1.0  # The switch is among those that `exact` tries both ways.


def _two_gpus(bench: Bench, tensor: int) -> float:
    import torch

    if bench.device.type != "cuda" or torch.cuda.device_count() < 2:
        raise NotHere("fewer than two GPUs")
    return apart(bench, tensor)


def main(argv: list[str] | None = None) -> int:
    """Run the checks, print a table, write the JSON; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tempering.gpu_check", description="Check the engine on this machine's GPU.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny models, seconds instead of minutes")
    parser.add_argument("--out", type=Path, help=f"the JSON file (default {RESULTS}/gpu-check-<gpu>.json)")
    given = parser.parse_args(argv)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # Before CUDA starts: bits that repeat need it.
    import torch

    from tempering.runs import PACKAGES, installed

    if given.device == "cuda" and not torch.cuda.is_available():
        print("gpu-check: there is no GPU that PyTorch can use here, so nothing was run (--device cpu --small tries the code)", file=sys.stderr)
        return 2
    gpu = torch.cuda.get_device_name() if given.device == "cuda" else "cpu"
    versions = {name: version for name in PACKAGES if (version := installed(name))} | {"cuda": torch.version.cuda}

    def report(check: Check) -> None:
        state = {True: "ok", False: "FAILED", None: "-"}[check.passed]
        value = "" if check.value is None else f"{check.value:.4g}"
        bound = "" if check.bound is None else f"<= {check.bound:g}"
        print(f"{state:6}  {check.name:58}  {value:>10}  {bound:9}  {check.seconds:6.1f} s  {check.note}", flush=True)

    done = checks(Bench(torch.device(given.device), given.small), report)
    path = given.out or RESULTS / f"gpu-check-{re.sub(r'[^a-z0-9]+', '-', gpu.lower()).strip('-')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions, "gpu": gpu, "small": given.small}
    path.write_text(json.dumps({**found, "checks": [asdict(check) for check in done]}, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    failed = [check.name for check in done if check.passed is False]
    print(
        f"{sum(check.passed is True for check in done)} passed, {len(failed)} failed, {sum(check.passed is None for check in done)} not here; {path}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
