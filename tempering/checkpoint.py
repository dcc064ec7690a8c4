"""Checkpoints: everything a run needs to go on to the same bits, as safetensors and JSON, never pickles.

A checkpoint is a folder `step-000100` that appears whole or not at all: it is written beside its place, synced and renamed. Its tensors are written
and read by torch.distributed.checkpoint in its safetensors format: each process writes the pieces it holds, and another number of processes reads
the pieces it needs. `state.json` holds what is no tensor. `manifest.json` holds the SHA-256 of every file; a checkpoint that is torn, truncated or
foreign is refused with a sentence and the one before it is used.

`Saver` writes while training goes on: from a copy in memory, in a thread, one checkpoint at a time.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tempering.distributed.world import ALONE, World
from tempering.errors import UserError
from tempering.home import atomic_folder, sha256_file

FORMAT = 2
FILE_BYTES = 128 * 2**20
"""About as much goes into one file: safetensors makes a file's bytes in memory, twice, before they are written."""

# Said of every run of one process, which is what is meant.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized", category=UserWarning)


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int, world: World = ALONE) -> Path:
    """Write `folder/step-NNNNNN` atomically and remove all but the newest `keep`. Every process calls it at once.

    Args:
        tensors: name -> tensor of any shape and device, perhaps sharded. A name that several processes hold unsharded is written by one of them.
        state: JSON-able rest; the first process's is written.

    Raises:
        UserError: it could not be written, on every process, whichever failed. What was there before stays.
    """
    from torch.distributed.checkpoint import HuggingFaceStorageWriter
    from torch.distributed.checkpoint import save as write

    target = folder / f"step-{step:06d}"
    with ExitStack() as stack:

        def begin() -> str:
            return str(stack.enter_context(atomic_folder(target, existing="replace"))) if world.first else ""

        def finish() -> None:
            if world.first:
                (work / "state.json").write_text(json.dumps(dict(state)))
                own = {"state.json": sha256_file(work / "state.json", remember=False)}
                digests = {name: digest for process in shards for name, digest in process.items()} | own
                (work / "manifest.json").write_text(json.dumps({"format": FORMAT, "step": step, "sha256": digests}))
            stack.close()
            for old in steps(folder)[:-keep] if world.first else ():
                shutil.rmtree(folder / f"step-{old:06d}")

        work = Path(world.share(world.together(begin)))
        writer = HuggingFaceStorageWriter(str(work), _files(tensors, world), save_distributed=True)
        _collective(
            lambda: write(
                dict(sorted(tensors.items())),
                storage_writer=writer,
                process_group=world.group,
                no_dist=world.size == 1,
            )
        )
        mine = sorted(work.glob(f"shard-{world.rank + 1:05d}-*.safetensors"))
        shards = world.gather(world.together(lambda: {path.name: sha256_file(path, remember=False) for path in mine}))
        world.together(finish)
    return target


def _files(tensors: Mapping[str, Tensor], world: World) -> dict[str, int]:
    """name -> the number of the file it goes to, from 1; of the names of all processes, on each of them the same."""
    sizes: dict[str, int] = {}
    for process in world.gather({name: t.numel() * t.element_size() for name, t in tensors.items()}):
        sizes |= process
    files: dict[str, int] = {}
    number, filled = 1, 0
    for name, size in sorted(sizes.items()):
        if filled and filled + size > FILE_BYTES:
            number, filled = number + 1, 0
        files[name] = number
        filled += size
    return files


def _collective(action: Callable[[], Any]) -> None:
    """torch.distributed.checkpoint wraps what failed, on whichever process, in an exception that no `except Exception` catches."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        action()
    except CheckpointException as wrapped:
        rank, (failure, _) = min(wrapped.failures.items(), key=lambda item: item[0])
        if isinstance(failure, OSError):
            raise failure from None
        raise UserError(f"checkpoint: process {rank}: {type(failure).__name__}: {failure}") from None


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, ascending; whole or not."""
    if not folder.is_dir():
        return []
    return sorted(int(m.group(1)) for p in folder.iterdir() if (m := re.fullmatch(r"step-(\d+)", p.name)))


def verify(path: Path, world: World = ALONE) -> dict[str, Any]:
    """Check one checkpoint's files against their checksums, each process a share of them, and give its state.

    Raises:
        ValueError: the sentence that says what is wrong with it, on every process.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            raise ValueError(f"checkpoint {path} has format {manifest['format']}; this version reads {FORMAT}")
        files = sorted(manifest["sha256"].items())
        torn = [name for name, digest in files[world.rank :: world.size] if sha256_file(path / name, remember=False) != digest]
        state = json.loads((path / "state.json").read_text())
        trouble = f"checkpoint {path}: {torn[0]} does not match its checksum (torn or changed)" if torn else ""
        if foreign := sorted({p.name for p in path.glob("*.safetensors")} - dict(files).keys()):
            trouble = trouble or f"checkpoint {path}: {foreign[0]} does not belong to it"
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        plain = type(error) is ValueError
        state, trouble = {}, str(error) if plain else f"checkpoint {path} cannot be read ({type(error).__name__}: {error})"
    for sentence in world.gather(trouble):
        if sentence:
            raise ValueError(sentence)
    return state


def newest(folder: Path, say: Callable[[str], None], world: World = ALONE) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that is whole, and its state; broken ones are named through `say` and passed over."""
    for step in reversed(world.share(steps(folder))):
        path = folder / f"step-{step:06d}"
        try:
            return path, verify(path, world)
        except ValueError as error:
            say(f"{error}; using the one before it")
    return None


def shapes(path: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """name -> (shape, type) of every tensor of a checkpoint, whole, however many processes wrote it."""
    from torch.distributed.checkpoint import HuggingFaceStorageReader

    found: Any = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    return {name: (about.size, about.properties.dtype) for name, about in found.items()}


def read(path: Path, into: Mapping[str, Tensor], world: World = ALONE) -> None:
    """Fill tensors (perhaps sharded, of the checkpoint's shapes) with those of their names. Every process calls it at once.

    Raises:
        UserError: a name or a shape that the checkpoint does not have.
    """
    from torch.distributed.checkpoint import HuggingFaceStorageReader, load

    reader = HuggingFaceStorageReader(str(path))
    _collective(lambda: load(dict(into), storage_reader=reader, process_group=world.group, no_dist=world.size == 1))


# ------------------------------------------------------------------------------------------------------------------------ while training goes on


class Saver:
    """Writes checkpoints beside training, one at a time. A write that fails is told and loses nothing: the run goes on, older checkpoints stay.

    Args:
        landed: the step that the run starts from, 0 or that of the checkpoint it resumed; later checkpoints in the folder are removed.
    """

    def __init__(self, folder: Path, keep: int, landed: int, say: Callable[[str], None], world: World = ALONE) -> None:
        self.folder, self.keep, self.landed, self.say = folder, keep, landed, say
        self._world = world.beside()
        self._stager: Any = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: tuple[int, Future[Path]] | None = None
        if world.first and folder.is_dir():
            # What a killed process left half written, and checkpoints that were refused or are of an earlier run: none may count as the newest.
            later = [folder / f"step-{step:06d}" for step in steps(folder) if step > landed]
            for left in (*folder.glob(".step-*.part"), *folder.glob(".step-*.old"), *later):
                shutil.rmtree(left, ignore_errors=True)

    def start(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Copy everything to memory and begin to write it; waits first for a checkpoint that is still being written."""
        self.wait()
        if self._stager is None:
            from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

            # One more copy of the weights in ordinary memory, reused by every checkpoint.
            self._stager = DefaultStager(StagingOptions(False, False, False, False))
        copied = self._stager.stage({name: t.detach() for name, t in tensors.items()})
        frozen = json.loads(json.dumps(dict(state)))
        self._writing = step, self._thread.submit(save, self.folder, step, copied, frozen, self.keep, self._world)

    def wait(self) -> None:
        """Until nothing is being written. A failure is said here."""
        if self._writing is None:
            return
        (step, written), self._writing = self._writing, None
        try:
            written.result()
        except Exception as error:
            kept = f"the newest checkpoint is that of step {self.landed}" if self.landed else "there is no checkpoint yet"
            self.say(f"the checkpoint of step {step} could not be written: {error} Training goes on; {kept}")
        else:
            self.landed = step

    def close(self) -> None:
        """Wait, and end the thread."""
        self.wait()
        self._thread.shutdown()
        if self._stager is not None:
            self._stager.close()


# ------------------------------------------------------------------------------------------------------------------------------------ optimizers


def optimizer_state(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as named tensors and a JSON-able rest.

    Args:
        names: id of a parameter -> its name. The state of parameter "a.weight" is called "a.weight/exp_avg", whatever its place in the optimizer.
    """
    tensors: dict[str, Tensor] = {}
    slots: dict[str, Any] = {}
    for parameter, state in optimizer.state.items():
        for slot, value in state.items():
            (tensors if isinstance(value, Tensor) else slots)[f"{names[id(parameter)]}/{slot}"] = value
    groups = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    return tensors, {"slots": slots, "groups": groups}


def prime(optimizer: torch.optim.Optimizer) -> None:
    """Give every parameter the state that this optimizer keeps for it, by a step without gradient; weights and state are to be overwritten."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def restore_rest(optimizer: torch.optim.Optimizer, names: Mapping[int, str], rest: Mapping[str, Any]) -> None:
    """Put back what of an optimizer's state is no tensor."""
    for parameter, state in optimizer.state.items():
        prefix = names[id(parameter)] + "/"
        state.update({slot.removeprefix(prefix): value for slot, value in rest["slots"].items() if slot.startswith(prefix)})
    for group, then in zip(optimizer.param_groups, rest["groups"], strict=True):
        # JSON turns tuples (betas) into lists. How the update is computed hangs on where the weights lie now.
        then = {name: value for name, value in then.items() if name not in ("fused", "foreach")}
        group.update({name: tuple(value) if isinstance(group.get(name), tuple) else value for name, value in then.items()})
