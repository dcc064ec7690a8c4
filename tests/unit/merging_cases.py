"""What tests of merging share: three small models, and what lies in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.conftest import make_llama, make_tokenizer

Models = dict[str, Path]


def quiet(text: str) -> None:
    pass


def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Models:
    """A base and two changes of it, in bfloat16 folders `m`, `a`, `b`; the working folder is theirs."""
    monkeypatch.chdir(tmp_path)
    base = make_llama()
    found = {}
    for seed, name in enumerate("mab"):
        model = make_llama()
        torch.manual_seed(seed)
        with torch.no_grad():
            for p, q in zip(model.parameters(), base.parameters(), strict=True):
                p.copy_(q + 0.05 * seed * torch.randn_like(p))
        model.to(torch.bfloat16).save_pretrained(tmp_path / name)
        make_tokenizer().save_pretrained(tmp_path / name)
        found[name] = tmp_path / name
    return found


def tensors(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
