"""A merge's files: memory that is read into again, and tensors made side by side."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tempering.home import sha256_file
from tempering.merging import read as reading
from tempering.merging import write as writing
from tempering.merging.config import parse
from tempering.merging.read import Meta, Shards, _Buffers
from tempering.merging.run import merge
from tempering.merging.write import Slot, write

NAMES = [f"layer.{i}" for i in range(7)]


def lies_in(tensor: Tensor, array: np.ndarray) -> bool:
    return tensor.data_ptr() == array.__array_interface__["data"][0]


def test_memory_is_used_again_when_no_tensor_lies_in_it_and_not_before() -> None:
    buffers = _Buffers()
    first = torch.from_numpy(buffers.take(64)).view(torch.bfloat16)
    piece = first[5:9]
    del first
    # a view of a few entries holds the whole
    other = torch.from_numpy(buffers.take(64))
    assert len(buffers.held) == 2 and not lies_in(other, buffers.held[0])
    del piece
    assert lies_in(torch.from_numpy(buffers.take(32)), buffers.held[0])
    assert len(buffers.held) == 2


def test_memory_that_became_too_small_is_let_go() -> None:
    buffers = _Buffers()
    for size in (8, 8, 16, 64):
        buffers.take(size)
    assert [array.nbytes for array in buffers.held] == [64]
    held = buffers.take(64)
    buffers.take(100)
    assert sorted(array.nbytes for array in buffers.held) == [64, 100] and held.nbytes == 64


def test_a_merge_leaves_no_memory_behind(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        save_file({"w": torch.ones(3, 2)}, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text("{}")
    config = parse({"merge_method": "linear", "models": [{"model": str(tmp_path / name)} for name in "ab"]}, "test")
    merge(config, tmp_path / "out", say=lambda text: None)
    assert reading._BUFFERS.held == []
    assert torch.equal(Shards(tmp_path / "out").read("w"), torch.ones(3, 2))


def write_all(folder: Path, threads: int) -> str:
    together = threading.Barrier(threads)

    def make(name: str) -> Tensor:
        if name in NAMES[:threads]:
            # the first ones wait for each other, so they are made at the same time
            together.wait(30)
        assert torch.get_num_threads() == 1
        generator = torch.Generator().manual_seed(int(name[-1]))
        return torch.randn((5, 3 + int(name[-1])), generator=generator)

    folder.mkdir()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        write(folder, [Slot(name, Meta((5, 3 + int(name[-1])), torch.float32)) for name in NAMES], make, "key", 1 << 20, lambda text: None)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    return sha256_file(folder / "model.safetensors", remember=False)


def test_files_do_not_depend_on_how_many_tensors_are_made_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PIECE", 13)
    assert write_all(tmp_path / "one", 1) == write_all(tmp_path / "three", 3)
    generator = torch.Generator().manual_seed(4)
    assert torch.equal(Shards(tmp_path / "three").read("layer.4"), torch.randn((5, 7), generator=generator))


def test_a_tensor_that_cannot_be_made_ends_the_merge_with_its_error_and_the_threads_as_they_were(tmp_path: Path) -> None:
    def make(name: str) -> Tensor:
        if name == "layer.3":
            raise ValueError("no layer.3")
        return torch.zeros(2)

    before = torch.get_num_threads()
    with pytest.raises(ValueError, match=r"no layer\.3"):
        write(tmp_path, [Slot(name, Meta((2,), torch.float32)) for name in NAMES], make, "key", 1 << 20, lambda text: None)
    assert torch.get_num_threads() == before
