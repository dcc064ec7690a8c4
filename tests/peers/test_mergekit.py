"""Merges equal mergekit's: each method on one tensor, with numbers that are stored (mergekit.py says how), and whole folders by its own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tempering import index
from tempering.merging.config import parse
from tempering.merging.run import merge
from tests.conftest import make_llama, make_tokenizer
from tests.peers import mergekit as peer

STORED = json.loads(peer.NUMBERS.read_text(encoding="utf-8"))
COARSE = {
    name: "which entries are taken hangs on differences that mergekit rounds to eight bits"
    for name in ("sce", "sce_selected", "arcee_fusion", "della", "della_linear", "ram", "ramplus_tl")
}
COARSE |= dict.fromkeys(("breadcrumbs", "breadcrumbs_ties"), "which of equal entries mergekit keeps is left to a sort that is not stable")
every_call = pytest.mark.parametrize("name", peer.THEIRS)
every_type = pytest.mark.parametrize("kind", peer.DTYPES)


def same(found: Tensor, expected: Tensor, exact: bool) -> None:
    if exact:
        assert torch.equal(found, expected)
    elif found.dtype == torch.float32:
        assert torch.allclose(found, expected, rtol=1e-5, atol=2e-6)
    else:
        # Ours is computed in float32 and rounded once, theirs at every step.
        assert torch.allclose(found.float(), expected.float(), rtol=2**-6, atol=2**-6)


def test_every_method_is_compared() -> None:
    assert {entry.name for entry in index.methods("merge")} - {call.method for call in peer.THEIRS.values()} <= {
        "chat_vector",
        "fisher",
        "regmean",
    }


@every_call
@every_type
def test_a_method_gives_the_numbers_that_are_stored(name: str, kind: str) -> None:
    expected = torch.tensor(STORED[name][kind]).reshape(peer.SHAPE).to(peer.DTYPES[kind])
    if kind == "bfloat16" and name in COARSE:
        pytest.skip(COARSE[name])
    same(peer.ours(name, peer.DTYPES[kind]), expected, peer.THEIRS[name].exact)


@pytest.mark.peer
@every_call
@every_type
def test_the_stored_numbers_are_mergekits(name: str, kind: str) -> None:
    pytest.importorskip("mergekit")
    expected = torch.tensor(STORED[name][kind]).reshape(peer.SHAPE).to(peer.DTYPES[kind])
    # Models that a method gets in the order of a set are summed in any order.
    assert torch.allclose(peer.theirs(name, peer.DTYPES[kind]).float(), expected.float(), rtol=1e-6 if kind == "float32" else 2**-7)


MODELS = [{"model": "a", "parameters": {"weight": 0.6, "density": 0.5}}, {"model": "b", "parameters": {"weight": [0.2, 0.9], "density": 0.7}}]
FILES: dict[str, dict[str, Any]] = {
    "ties": {"merge_method": "ties", "base_model": "m", "models": MODELS, "parameters": {"normalize": True, "int8_mask": True}},
    "linear": {"merge_method": "linear", "models": MODELS, "dtype": "float32"},
    "slerp": {
        "merge_method": "slerp",
        "base_model": "a",
        "slices": [{"sources": [{"model": "a", "layer_range": [0, 2]}, {"model": "b", "layer_range": [0, 2]}]}],
        "parameters": {"t": [{"filter": "self_attn", "value": [0, 0.5, 1]}, {"filter": "mlp", "value": [1, 0]}, {"value": 0.4}]},
        "dtype": "bfloat16",
    },
    "task arithmetic of slices": {
        "merge_method": "task_arithmetic",
        "base_model": "m",
        "slices": [
            {
                "sources": [
                    {"model": "a", "layer_range": [0, 2], "parameters": {"weight": [0.1, 0.9]}},
                    {"model": "m", "layer_range": [0, 2]},
                    {"model": "b", "layer_range": [1, 3], "parameters": {"weight": {"filter": "mlp", "value": 0.5}}},
                ],
                "parameters": {"weight": 0.25},
            },
            {"sources": [{"model": "m", "layer_range": [2, 3]}, {"model": "b", "layer_range": [0, 1], "parameters": {"weight": 0.3}}]},
        ],
        "out_dtype": "float16",
    },
    "passthrough": {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "a", "layer_range": [0, 2]}]},
            {"sources": [{"model": "b", "layer_range": [1, 3], "parameters": {"scale": [{"filter": "o_proj", "value": 0.5}, {"value": 1.0}]}}]},
        ],
    },
}


# mergekit's own import of NumPy.
@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
@pytest.mark.peer
@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_the_tensors_that_mergekit_gives(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mergekit")
    from mergekit.config import MergeConfiguration
    from mergekit.io.tasks import LoaderCache
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    monkeypatch.chdir(tmp_path)
    for seed, model in enumerate("mab"):
        make_llama(seed=0 if name != "passthrough" else seed, layers=3).save_pretrained(model)
        made = make_llama(layers=3)
        torch.manual_seed(seed)
        with torch.no_grad():
            for p in made.parameters():
                p += 0.05 * seed * torch.randn_like(p)
        # Of changes of equal size, frequent in bfloat16, mergekit keeps any: its sort is not stable.
        made.to(torch.float32 if name == "ties" else torch.bfloat16).save_pretrained(model)
        make_tokenizer().save_pretrained(model)
    # It keeps what it opened by the name of the model, and those names are taken anew in every test.
    LoaderCache().loaders.clear()
    run_merge(MergeConfiguration.model_validate(FILES[name]), "theirs", MergeOptions(cuda=False, quiet=True, write_model_card=False))
    merge(parse(FILES[name], name), "ours", say=lambda text: None)
    expected, found = load_file("theirs/model.safetensors"), load_file("ours/model.safetensors")
    assert expected.keys() == found.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype
        # The angle of slerp is summed in another order.
        assert torch.allclose(found[key].float(), tensor.float(), rtol=2**-7 if name == "slerp" else 0, atol=1e-6 if name == "slerp" else 0), key
