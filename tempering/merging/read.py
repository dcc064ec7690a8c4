"""A model's weights as a lazy mapping: names and shapes are known at once, a tensor is read when it is asked for and is then the caller's own.

Files are read, not mapped into memory: mapped pages would count as this process's memory until the file is closed. A PEFT adapter is applied on the
way, W + s B A (Hu et al. 2021, arXiv 2106.09685), one tensor at a time. A GGUF file goes through the store's converted copy.
"""

from __future__ import annotations

import json
import math
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tempering.errors import UserError
from tempering.models.load import spec_of_base
from tempering.models.places import Place, find, read_json

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Names of the safetensors format."""
_MOST_HEADER = 100_000_000
_MENDS = "fetch or save the model again"


@dataclass(frozen=True)
class Meta:
    """What is known of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """What it takes in a file."""
        return math.prod(self.shape) * self.dtype.itemsize


class _Buffers:
    """Memory to read into, used again once no tensor lies in it: a page's first touch costs more than reading it from a file that is in memory.

    A tensor made of an array refers to it, so an array that only this list refers to is free. NumPy's own large arrays ask the system for
    large pages; where its memory is full of files, it moves those out of the way first, which takes longer than merging what is then read.
    """

    def __init__(self) -> None:
        self.held, self.lock = list[np.ndarray](), threading.Lock()

    def take(self, size: int) -> np.ndarray:
        """`size` bytes of anything."""
        with self.lock:
            free = [i for i in range(len(self.held)) if sys.getrefcount(self.held[i]) == _UNUSED]
            fits = [i for i in free if self.held[i].nbytes >= size]
            if not fits:
                # What is too small is let go, so that there are never more than were needed at one time.
                self.held = [array for i, array in enumerate(self.held) if i not in free]
                self.held.append(np.frombuffer(mmap(-1, max(1, size)), np.uint8))
                fits = [len(self.held) - 1]
            return self.held[min(fits, key=lambda i: self.held[i].nbytes)][:size]


_ONE = [np.empty(0)]
_UNUSED = sys.getrefcount(_ONE[0])
"""What a list's array counts that nothing else refers to."""
_BUFFERS = _Buffers()


def forget() -> None:
    """Let go of the memory that was read into: nothing more is read."""
    _BUFFERS.held = []


class Weights(Protocol):
    """A model's tensors by name."""

    folder: Path
    """Where its config.json stands."""
    tokenizer: Path
    """Where its tokenizer stands."""

    @property
    def metas(self) -> Mapping[str, Meta]:
        """Every tensor's shape and type."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """What it is read from."""
        ...

    def read(self, name: str) -> Tensor:
        """A tensor of the caller's own."""
        ...


def open_weights(spec: str, say: Callable[[str], None] = print) -> Weights:
    """The weights of a folder, adapter, run, .gguf file, hub id or built-in; "MODEL+ADAPTER" is an adapter on a model of one's choice.

    Raises:
        UserError: nothing of that name, damaged files, or an adapter that is no plain LoRA.
    """
    if two := on_model(spec):
        return Adapted(open_weights(two[0], say), _place(two[1], say).folder)
    place = _place(spec, say)
    if place.kind == "adapter":
        return Adapted(open_weights(spec_of_base(place), say), place.folder)
    return Shards(place.folder)


def on_model(spec: str) -> tuple[str, str] | None:
    """The model and the adapter of "MODEL+ADAPTER"; None for anything else."""
    model, plus, adapter = spec.rpartition("+")
    return (model, adapter) if plus and not Path(spec).expanduser().exists() else None


def _place(spec: str, say: Callable[[str], None]) -> Place:
    # Most are folders, which need no transformers to be told apart: importing it takes longer than many a merge.
    folder = Path(spec).expanduser().absolute()
    if (folder / "adapter_model.safetensors").is_file():
        return Place(str(folder), folder, "adapter")
    if (folder / "config.json").is_file() and not (folder / "status.json").is_file() and any(folder.glob("*.safetensors")):
        return Place(str(folder), folder, "model")
    return find(spec, say)


def stamps(weights: Weights) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the files: what tells whether they are the same as before."""
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in weights.files]


class Shards:
    """A Hugging Face folder: one safetensors file, or several with an index.

    Raises UserError for files that are missing or whose header does not describe them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = self.tokenizer = folder
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            named = read_json(index).get("weight_map")
            where = {str(k): str(v) for k, v in named.items()} if isinstance(named, dict) else {}
            names = sorted(set(where.values()))
            # A shard is named, not pointed at: a path would lead out of the folder.
            if not names or any(Path(name).name != name for name in names):
                raise UserError(f"{index} names no files beside it; {_MENDS}.")
        else:
            where, names = {}, ["model.safetensors"]
        self.files = tuple(folder / name for name in names)
        self._at: dict[str, tuple[Path, int, Meta]] = {}
        for file in self.files:
            self._at |= {name: found for name, found in _header(file) if where.get(name, file.name) == file.name}
        if lost := sorted(where.keys() - self._at.keys()):
            raise UserError(f"{index} names a tensor {lost[0]} that is not in {where[lost[0]]}; {_MENDS}.")
        self.metas = {name: meta for name, (_, _, meta) in self._at.items()}

    def read(self, name: str) -> Tensor:
        file, start, meta = self._at[name]
        raw = torch.from_numpy(_BUFFERS.take(meta.bytes))
        with file.open("rb", buffering=0) as opened:
            opened.seek(start)
            view = raw.numpy().data
            while view:
                if not (count := opened.readinto(view)):
                    raise UserError(f"{file} ends in the middle of {name}; {_MENDS}.")
                view = view[count:]
        return raw.view(meta.dtype).view(meta.shape)


def _header(file: Path) -> Iterator[tuple[str, tuple[Path, int, Meta]]]:
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 2 <= length <= min(size - 8, _MOST_HEADER):
                raise ValueError("no header")
            header = json.loads(opened.read(length))
        for name, about in header.items():
            if name != "__metadata__":
                yield name, _entry(file, 8 + length, size, about)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({(error.strerror or str(error)).lower()}); {_MENDS}.") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is not a readable safetensors file ({type(error).__name__}); {_MENDS}.") from error


def _entry(file: Path, start: int, size: int, about: Any) -> tuple[Path, int, Meta]:
    meta = Meta(tuple(int(n) for n in about["shape"]), DTYPES[about["dtype"]])
    first, last = about["data_offsets"]
    if min(meta.shape, default=0) < 0 or last - first != meta.bytes or first < 0 or start + last > size:
        raise ValueError("offsets")
    return file, start + first, meta


class Adapted:
    """Weights with a PEFT adapter's change added to each tensor as it is read: LoRA, with or without rank-stabilised scale, and modules saved whole.

    Raises UserError for any other adapter, and for one whose tensors do not belong to these weights.
    """

    def __init__(self, model: Weights, folder: Path) -> None:
        self.model, self.folder = model, model.folder
        self.tokenizer = folder if (folder / "tokenizer_config.json").is_file() else model.tokenizer
        config = read_json(folder / "adapter_config.json")
        fold = "; fold it into plain weights first: temper export ADAPTER --merged --out FOLDER"
        if config.get("peft_type") != "LORA" or config.get("use_dora"):
            raise UserError(f"the adapter in {folder} is {config.get('peft_type')}{' (DoRA)' * bool(config.get('use_dora'))}, not a plain LoRA{fold}")
        self._config = config
        self._file = File(folder / "adapter_model.safetensors")
        self._deltas: dict[str, tuple[str, str]] = {}
        self._whole: dict[str, str] = {}
        for key in self._file.metas:
            name = key.removeprefix("base_model.model.")
            module, a, _ = name.partition(".lora_A")
            if not a:
                module, a, _ = name.partition(".lora_embedding_A")
            if a:
                self._deltas[f"{module}.weight"] = key, key.replace("lora_A", "lora_B").replace("lora_embedding_A", "lora_embedding_B")
            elif ".lora_" not in name:
                self._whole[name.replace(".base_layer.", ".")] = key
            elif "_B" not in name or name.endswith(".bias"):
                raise UserError(f"the adapter in {folder} has a weight {key}, which is no plain LoRA's{fold}")
        if lost := sorted(name for name in (*self._deltas, *self._whole) if name not in model.metas):
            raise UserError(f"the adapter in {folder} changes {lost[0]}, which {model.folder} does not have; it belongs to another model.")
        self.metas = {**model.metas, **{name: Meta(self._file.metas[key].shape, model.metas[name].dtype) for name, key in self._whole.items()}}
        self.files = (*model.files, self._file.file)

    def read(self, name: str) -> Tensor:
        weight = self._file.read(self._whole[name]).to(self.metas[name].dtype) if name in self._whole else self.model.read(name)
        if name not in self._deltas:
            return weight
        a, b = (self._file.read(key).float() for key in self._deltas[name])
        module = name.removesuffix(".weight")
        rank = b.shape[-1]
        alpha = next((v for k, v in (self._config.get("alpha_pattern") or {}).items() if re.match(rf"(.*\.)?({k})$", module)), None)
        alpha = self._config.get("lora_alpha", rank) if alpha is None else alpha
        delta = b @ a * (alpha / (math.sqrt(rank) if self._config.get("use_rslora") else rank))
        # An embedding's and a Conv1D's weight lie the other way round.
        turned = "lora_embedding" in self._deltas[name][0] or bool(self._config.get("fan_in_fan_out"))
        return weight.add_((delta.T if turned else delta).to(weight.dtype))


class File(Shards):
    """One safetensors file of any name."""

    def __init__(self, file: Path) -> None:
        self.folder = self.tokenizer = file.parent
        self.file, self.files = file, (file,)
        self._at = dict(_header(file))
        self.metas = {name: meta for name, (_, _, meta) in self._at.items()}
