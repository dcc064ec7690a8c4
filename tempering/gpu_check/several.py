"""Do two processes train as one does? A GPU each: weights in pieces (FSDP2), and matrices in pieces (tensor parallelism), over nccl.

`python -m tempering.gpu_check.several FOLDER DEVICE TENSOR small|big` is what each of the two processes runs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from tempering.gpu_check.bench import Bench

STEPS = 3
END = "end.safetensors"


def apart(bench: Bench, tensor: int) -> float:
    """How far losses and weights of two processes are from one's after plain gradient steps, relative to the largest loss and the largest step.

    Args:
        tensor: 1 cuts weights and rows over the two, 2 every matrix.

    Raises:
        RuntimeError: the processes failed; the launcher's sentence.
    """
    from safetensors.torch import load_file

    from tempering.distributed.launch import launch

    with tempfile.TemporaryDirectory() as work:
        size = "small" if bench.small else "big"
        code, sentence = launch([sys.executable, "-m", "tempering.gpu_check.several", work, bench.device.type, str(tensor), size], 2)
        if code:
            raise RuntimeError(sentence or f"the processes ended with exit code {code}")
        two = load_file(Path(work) / END)
    one, start = train(bench, 1), dict(bench.model().named_parameters())
    losses = "losses"
    worst = float((one[losses] - two[losses]).abs().max() / one[losses].abs().max())
    for name in one.keys() - {losses}:
        moved = (one[name] - start[name].detach()).abs().max()
        worst = max(worst, float((one[name] - two[name]).abs().max() / moved.clamp(min=1e-6)))
    return worst


def train(bench: Bench, tensor: int) -> dict[str, Any]:
    """Trained weights on the processor and the losses [STEPS], of this process alone or, where it was started as one of several, of all."""
    import torch

    from tempering.config import Optimizer, Schedule, Training
    from tempering.data.streams import Shuffled
    from tempering.distributed.world import joined
    from tempering.fit import fit
    from tempering.methods.objectives.dpo import DPO
    from tempering.methods.scopes.full import Full
    from tempering.signals import Engine
    from tempering.types import Role

    losses: list[float] = []
    scope: Any = Full()
    with joined(tensor) as world:
        fitted = fit(
            {"policy": Role(bench.model(), scope)}, DPO(beta=0.5), Shuffled(bench.rows(12, ("chosen", "rejected")), 5, seed=1), steps=STEPS,
            optimizer=Optimizer(name="sgd", lr=0.1), schedule=Schedule(name="constant", warmup=0),
            training=Training(precision="fp32", micro_tokens=90),
            engine=Engine(device=bench.device), seed=2, say=lambda _: None, on_metrics=lambda m: losses.append(m["loss"]),
        )  # fmt: skip
    handle = fitted.roles["policy"].handle
    assert handle is not None
    ends = {name: p.detach().cpu() for name, p in handle.params.items()} if world.first else {}
    return {**ends, "losses": torch.tensor(losses)}


def main(words: list[str]) -> int:
    """One process of the two; the first leaves what came out."""
    import torch
    from safetensors.torch import save_file

    from tempering.distributed import word

    folder, device, tensor, size = words
    found = train(Bench(torch.device(device), size == "small"), int(tensor))
    if word.rank() == 0:
        save_file(found, Path(folder) / END)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
