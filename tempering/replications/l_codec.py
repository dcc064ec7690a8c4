"""A Newton step takes rows out of units that their loss depends on with less harm to other rows than out of units that were drawn.

Mehta et al. 2022 (L-CODEC, arXiv 2204.07655) choose the units that a sample's loss depends on by conditional dependence under perturbations, and
remove the sample there alone. Here builtin:tiny is half-way through learning five strangers beside five others (40 steps: what is learned by heart
has gradients near 0, and the step takes nothing out), and all rows about the five are taken out at once, out of at most 32 units of the hidden state
with the rows of `down_proj` that write them; the baseline takes as many drawn units of the same blocks. Both take the same step. Scored is the rise
of the forget rows' loss less that of the retain rows', in nats a token. Seed 9, which does not count, was tried before this with both 40 and 80
steps of learning and a damping of 1e-4 and 1e-6, and the chosen units were no better than drawn ones (docs/LOG.md).
"""

from __future__ import annotations

import copy
from typing import Any

from tempering.forgetting import newton
from tempering.methods.objectives.nll import NLL
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import TRAINING, fingerprint, loss, sft_rows, start, tiny, train
from tempering.replications._newcomers import RATE, rows_of, those
from tempering.signals import engine_for
from tempering.types import Policy
from tempering.worlds.base import rng

CLAIM = Claim(
    method="l_codec",
    catalogue=("S115",),
    title="A Newton step in units chosen by L-CODEC against drawn units",
    claim="Rows are taken out with less harm to others where only the units move that their loss depends on.",
    baseline="the same step in as many units drawn from the same blocks",
    metric="rise of the forget rows' loss less that of the retain rows'",
    smallest_effect=0.05,
    range=(-2.0, 2.0),
)
DAMPING = 1e-4
DRAWS, SHARE, STEPS = 256, 0.15, 40


def halfway(seed: int, scale: Scale) -> Policy:
    """builtin:tiny after some steps on questions about all ten; made once."""
    base, worlds = tiny(), those(seed)
    rows = sft_rows(base, [record for world in worlds for record in world.records("train")])
    inputs = {"newcomers": fingerprint(rows), "steps": scale(STEPS), "lr": RATE}
    return start(inputs, lambda: train(base, NLL(), rows, steps=scale(STEPS), seed=0, lr=RATE))


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The difference of the rises, both, and the number of units."""
    policy, engine = halfway(seed, scale), engine_for(TRAINING)
    gone, left = rows_of(seed, policy.tokenizer)
    blocks = newton.units(policy.model, "down_proj")
    search = {"draws": scale(DRAWS), "share": SHARE, "most": 32, "seed": seed, "engine": engine}
    found = newton.blanket(policy.model, gone, sorted(blocks), **search)
    if arm == "baseline":
        config: Any = policy.model.config
        draw, width = rng("units", seed), config.hidden_size
        found = [(block, draw.randrange(width)) for block, _ in found]
    chosen: dict[str, list[int]] = {}
    for block, unit in found:
        for name in blocks[block]:
            chosen.setdefault(name, []).append(unit)
    chosen = {name: sorted(set(rows)) for name, rows in chosen.items()}
    changed = Policy(copy.deepcopy(policy.model), policy.tokenizer, name="without")
    newton.step(changed.model, chosen, gone, left, total=len(left), examples=scale(64), damping=DAMPING, engine=engine)
    forget, retain = (loss(changed, rows, part) - loss(policy, rows, part) for rows, part in ((gone, "forget"), (left, "retain")))
    return {CLAIM.metric: forget - retain, "of the forget rows": forget, "of the retain rows": retain, "units": float(len(found))}
