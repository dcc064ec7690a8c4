"""Checkpoints: everything a run needs to go on to the same bits, as safetensors and JSON, never pickles.

A checkpoint is a folder `step-000100` that appears whole or not at all: it is written beside its place, synced and renamed. `manifest.json` holds
the SHA-256 of every file; one that is torn, truncated or foreign is refused with a sentence and the one before it is used.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tempering.home import atomic_folder, sha256_file

FORMAT = 1


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int) -> Path:
    """Write `folder/step-NNNNNN` atomically and remove all but the newest `keep`.

    Args:
        tensors: name -> tensor of any shape and device.
        state: JSON-able rest.
    """
    target = folder / f"step-{step:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    if target.exists():
        shutil.rmtree(target)
    with atomic_folder(target) as work:
        save_file({name: t.detach().to("cpu", copy=True).contiguous() for name, t in sorted(tensors.items())}, work / "tensors.safetensors")
        (work / "state.json").write_text(json.dumps(dict(state)))
        files = {path.name: sha256_file(path, remember=False) for path in sorted(work.iterdir())}
        (work / "manifest.json").write_text(json.dumps({"format": FORMAT, "step": step, "sha256": files}))
    for old in steps(folder)[:-keep]:
        shutil.rmtree(folder / f"step-{old:06d}")
    return target


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, ascending; whole or not."""
    if not folder.is_dir():
        return []
    return sorted(int(m.group(1)) for p in folder.iterdir() if (m := re.fullmatch(r"step-(\d+)", p.name)))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read and verify one checkpoint.

    Raises:
        ValueError: the sentence that says what is wrong with it.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            raise ValueError(f"checkpoint {path} has format {manifest['format']}; this version reads {FORMAT}")
        for name, digest in manifest["sha256"].items():
            if sha256_file(path / name, remember=False) != digest:
                raise ValueError(f"checkpoint {path}: {name} does not match its checksum (torn or changed)")
        return load_file(path / "tensors.safetensors"), json.loads((path / "state.json").read_text())
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"checkpoint {path} cannot be read ({type(error).__name__}: {error})") from None


def newest(folder: Path, say: Callable[[str], None]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint that is whole; broken ones are named through `say` and passed over."""
    for step in reversed(steps(folder)):
        try:
            return load(folder / f"step-{step:06d}")
        except ValueError as error:
            say(f"{error}; using the one before it")
    return None


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as named tensors and a JSON-able rest."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    for index, slots in state["state"].items():
        for name, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"{prefix}.{index}.{name}"] = value
            else:
                rest[f"{index}.{name}"] = value
    return tensors, {"rest": rest, "groups": state["param_groups"]}


def load_optimizer(optimizer: torch.optim.Optimizer, prefix: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Put back what `optimizer_tensors` took out."""
    slots: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        if name.startswith(prefix + "."):
            index, slot = name[len(prefix) + 1 :].split(".", 1)
            slots.setdefault(int(index), {})[slot] = value
    for name, value in state["rest"].items():
        index, slot = name.split(".", 1)
        slots.setdefault(int(index), {})[slot] = value
    groups = [{**now, **then, "params": now["params"]} for now, then in zip(optimizer.state_dict()["param_groups"], state["groups"], strict=True)]
    for group, live in zip(groups, optimizer.param_groups, strict=True):
        # JSON turns tuples (betas) into lists.
        group.update({k: tuple(v) for k, v in group.items() if isinstance(live.get(k), tuple)})
    optimizer.load_state_dict({"state": slots, "param_groups": groups})
