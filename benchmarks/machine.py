"""What the numbers were measured on, and with which code: results of different machines are never to be compared with each other."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Processor features that decide which matrix kernels run."""
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


def cores() -> int:
    """Processors that this process may use, which is what a container or taskset leaves of the machine."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """Processor, its flags, cores, memory and library versions, as JSON values."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.partition("\t")[::2] for line in info.splitlines() if "\t" in line)
    found = {name.strip(): value.lstrip("\t: ") for name, value in fields.items()}
    flags = set(found.get("flags", "").split())
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_PHYS_PAGES" in os.sysconf_names else 0
    return {
        "cpu": found.get("model name", platform.processor() or platform.machine()),
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": cores(),
        "memory_gib": round(pages / 2**30, 1),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def commit() -> str:
    """The commit that is checked out, with "+changes" where tracked files of the package or the benchmarks differ from it."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        return "unknown"
    changed = subprocess.run([*git, "status", "--porcelain", "-uno", "tempering", "benchmarks/*.py"], capture_output=True, text=True).stdout
    return head.stdout.strip() + ("+changes" if changed.strip() else "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
