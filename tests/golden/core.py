"""Numbers of the core on toy models: `python -m tests.golden.core` writes them to core.json, once `CORE_NUMERICS` has been raised.

They are compared with a relative tolerance of 1e-4, which other processors and other versions of PyTorch stay within and a changed formula does not.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("core.json")


def values() -> dict[str, Any]:
    """name -> numbers, tokens or digests."""
    return {**_fits(), **_sampled(), **_small()}


def _fits() -> dict[str, Any]:
    """Losses, gradient norms, weights after three steps (clipped, with a warm-up and a linear fall), and log-probs of the tuned model."""
    import torch

    from tempering.config import Optimizer, Schedule, Training
    from tempering.data.streams import Shuffled
    from tempering.fit import fit
    from tempering.measure import logps_of
    from tempering.methods.objectives.dpo import DPO
    from tempering.methods.objectives.nll import NLL
    from tempering.methods.scopes.full import Full
    from tempering.types import Policy, Role
    from tests.toy import toy_llama, toy_rows

    found: dict[str, Any] = {}
    cases = {
        "nll": (NLL(), ("train",)),
        "nll by segment": (NLL(norm="segment_mean"), ("train",)),
        "dpo + nll": (DPO() + 0.5 * NLL(part="chosen"), ("chosen", "rejected")),
    }
    for name, (objective, parts) in cases.items():
        told: list[Any] = []
        fitted = fit(
            {"policy": Role(toy_llama(), Full())},
            objective,
            Shuffled(toy_rows(10, parts), 4, seed=1),
            steps=3,
            optimizer=Optimizer(lr=1e-2, weight_decay=0.1),
            schedule=Schedule(warmup=0.4),
            training=Training(precision="fp32", micro_tokens=60, save_every=0),
            say=lambda sentence: None,
            on_metrics=told.append,
        )
        live = fitted.roles["policy"]
        found[f"{name}: loss"] = [step["loss"] for step in told]
        found[f"{name}: grad_norm"] = [step["grad_norm"] for step in told]
        found[f"{name}: weights"] = [float(weight.detach().double().abs().sum()) for _, weight in sorted(live.model.named_parameters())]
        with torch.no_grad():
            (logps,) = logps_of(Policy(live.model, None), [([5, 6, 7], [8, 9, 10, 11])])
        found[f"{name}: logps"] = logps.tolist()
    return found


def _sampled() -> dict[str, Any]:
    from tempering.sample import sample
    from tempering.types import Policy
    from tests.toy import toy_llama

    ((first, second),) = sample(Policy(toy_llama(), None), [[5, 6, 7]], n=2, max_new_tokens=8, temperature=0.7, top_p=0.9, seed=3)
    return {"sample: ids": [*first.ids, *second.ids], "sample: logps": [*first.logps, *second.logps]}


def _small() -> dict[str, Any]:
    """The helpers that claims are made of, with their defaults."""
    from tempering.methods.objectives.dpo import DPO
    from tempering.methods.objectives.nll import NLL
    from tempering.proof import small
    from tempering.worlds.preferences import Preferences

    world, begin = Preferences(noise=0.25), small.tiny()
    pairs = small.pair_rows(begin, world.records("train", 8))
    chosen = small.only(pairs, "chosen")
    tuned = small.train(begin, DPO(), pairs, steps=2, seed=0, lr=1e-3, batch_size=4)
    imitated = small.train(small.scratch(num_hidden_layers=1), NLL(), chosen, steps=2, seed=0, lr=1e-3, batch_size=4)
    return {
        "small: rows": [small.fingerprint(pairs), small.fingerprint(small.sft_rows(begin, world.records("train", 8), train_on="all"))],
        "small: loss": [small.loss(model, chosen) for model in (begin, tuned, imitated)],
        "small: score": [small.score(begin, world.probe("test", 20)), small.score(begin, world.reward_probe("test", 3))],
    }


def write() -> int:
    """Write core.json; refused while the numbers differ and `CORE_NUMERICS` is still the old one."""
    from tempering.proof.digest import CORE_NUMERICS
    from tests.golden.test_core import same

    found = values()
    old = json.loads(FILE.read_text()) if FILE.exists() else {"core_numerics": 0, "values": {}}
    if old["core_numerics"] == CORE_NUMERICS and any(name in found and not same(found[name], value) for name, value in old["values"].items()):
        print(
            "numbers changed: raise CORE_NUMERICS in tempering/proof/digest.py first, so that results made before are known as stale", file=sys.stderr
        )
        return 2
    FILE.write_text(json.dumps({"core_numerics": CORE_NUMERICS, "values": found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(write())
