"""Merging against mergekit: random shards of a Llama's shapes in bfloat16, two models and their base, whole process and merge alone.

python -m benchmarks.merge --size 8B --method ties     # another size, or one method; nothing is stored

The limit beside it is the speed of this disk: reading all inputs and writing the output, in the same run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.child import Meter
from benchmarks.harness import Benchmark, Contender, Target

SIZES = {
    "tiny": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 3, "vocab_size": 2048},
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "vocab_size": 32768},
    "3B": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "vocab_size": 32768},
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 32768},
}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "linear": {"models": {"weight": 0.5}},
    "slerp": {"parameters": {"t": 0.4}},
    "ties": {"models": {"weight": 0.5, "density": 0.5}, "base": True},
    "dare_ties": {"models": {"weight": 0.5, "density": 0.5}, "base": True},
}


def prepare(path: str, size: str, method: str) -> dict[str, Any]:
    """Three models in shards of 1 GB, and how fast the disk is."""
    import torch

    from tempering.merging.read import Meta
    from tempering.merging.write import Slot, write

    shape = SIZES[size]
    hidden, middle, narrow = shape["hidden_size"], shape["intermediate_size"], shape["hidden_size"] // 4
    layer = {
        "input_layernorm": (hidden,), "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (narrow, hidden),
        "self_attn.v_proj": (narrow, hidden), "self_attn.o_proj": (hidden, hidden), "post_attention_layernorm": (hidden,),
        "mlp.up_proj": (middle, hidden),
        "mlp.gate_proj": (middle, hidden), "mlp.down_proj": (hidden, middle),
    }  # fmt: skip
    shapes = {"model.embed_tokens.weight": (shape["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    shapes |= {f"model.layers.{i}.{name}.weight": size for i in range(shape["num_hidden_layers"]) for name, size in layer.items()}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_attention_heads": 32, "num_key_value_heads": 8} | shape
    config |= {"tie_word_embeddings": True, "dtype": "bfloat16", "rms_norm_eps": 1e-5, "hidden_act": "silu"}
    slots = [Slot(name, Meta(tuple(one), torch.bfloat16)) for name, one in shapes.items()]
    for seed, name in enumerate(("base", "a", "b")):
        folder = Path(path) / name
        folder.mkdir()
        torch.manual_seed(seed)
        write(folder, slots, lambda name: (0.02 * torch.randn(shapes[name])).to(torch.bfloat16), name, 1_000_000_000, lambda text: None)
        (folder / "config.json").write_text(json.dumps(config))
    parameters = sum(slot.meta.bytes for slot in slots) // 2
    began = time.perf_counter()
    inputs = [Path(path) / name for name in (("base", "a", "b") if METHODS[method].get("base") else ("a", "b"))]
    for folder in inputs[1:]:
        for file in folder.glob("*.safetensors"):
            with file.open("rb", buffering=0) as opened:
                while opened.read(1 << 24):
                    pass
    shutil.copytree(inputs[0], Path(path) / "copied")
    seconds = time.perf_counter() - began
    shutil.rmtree(Path(path) / "copied")
    return {"facts": {"parameters": parameters, "disk_s": seconds, "disk_parameters_s": parameters / seconds}}


def _config(path: str, method: str) -> dict[str, Any]:
    about = METHODS[method]
    models = [{"model": f"{path}/{name}", "parameters": dict(about.get("models", {}))} for name in "ab"]
    base = {"base_model": f"{path}/base"} if about.get("base") else {"base_model": f"{path}/a"} if method == "slerp" else {}
    return {"merge_method": method, "models": models, "parameters": dict(about.get("parameters", {})), "dtype": "bfloat16"} | base


def _report(meter: Meter, path: str, name: str) -> dict[str, Any]:
    from tempering.merging.read import Shards

    parameters = sum(meta.bytes for meta in Shards(Path(path) / name).metas.values()) // 2
    shutil.rmtree(Path(path) / name)
    return meter.report(tokens=[parameters], parameters=parameters)


def ours(path: str, size: str, method: str, seed: int) -> dict[str, Any]:
    """A merge of ours."""
    from tempering.merging.config import parse
    from tempering.merging.run import merge

    meter = Meter()
    meter.imported()
    meter.start()
    merge(parse(_config(path, method), "benchmark"), Path(path) / "ours", say=lambda text: None)
    meter.step()
    return _report(meter, path, "ours")


def mergekit(path: str, size: str, method: str, seed: int, **options: Any) -> dict[str, Any]:
    """The same by mergekit."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    meter = Meter()
    meter.imported()
    meter.start()
    chosen = MergeOptions(cuda=False, quiet=True, copy_tokenizer=False, write_model_card=False, **options)
    run_merge(MergeConfiguration.model_validate(_config(path, method)), f"{path}/theirs", chosen)
    meter.step()
    return _report(meter, path, "theirs")


def benchmark(method: str, size: str) -> Benchmark:
    """One method at one size."""
    return Benchmark(
        name=f"merge {method}",
        ours=Contender("ours", "benchmarks.merge:ours"),
        peers=(Contender("mergekit", "benchmarks.merge:mergekit", ({}, {"async_write": True})),),
        prepare="benchmarks.merge:prepare",
        inputs={"size": size, "method": method},
        quick_inputs={"size": "tiny", "method": method},
        unit="parameters/s",
        equal=("parameters",),
        tolerance=None,
        limit=lambda facts, best: facts["disk_parameters_s"],
        targets={("speed", "mergekit"): Target(least=3.0), ("memory", "mergekit"): Target(most=0.5)},
    )


def measure(
    *, rounds: int | None = None, quick: bool = False, say: Callable[[str], None] = print, size: str = "1B", methods: tuple[str, ...] = tuple(METHODS)
) -> list[dict[str, Any]]:
    """Speed and memory of every method."""
    return [row for method in methods for row in harness.measure(benchmark(method, size), rounds=rounds, quick=quick, say=say)]


def main() -> None:
    """Show the numbers of one size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="1B")
    parser.add_argument("--method", choices=METHODS, action="append")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    harness.show(measure(rounds=args.rounds, size=args.size, methods=tuple(args.method or METHODS)))


if __name__ == "__main__":
    main()
