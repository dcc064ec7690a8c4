"""Averaged with the model it came from, a tuned model gets back what it lost; by shares that differ with depth it pays less for that.

Lin et al. 2023 (arXiv 2309.06256) see tuning cost what a model could do, plain averaging with the model before it give some back, and averaging by
learned shares of three groups of layers (HMA) lie above it. Here builtin:tiny learns facts about 60 people and loses some about the hundred that it
knew (alignment by replies costs this model hardly any). Both arms go back by the same share on average, 0.3; the method's three shares are learned on
the rows of the tuning, where the paper has the aligned model's best of n answers. The score is the mean of the shares of new and of old facts told
right in held-out wordings; both stand beside it. On seed 100, which is none of the seeds that count, HMA was no better at a mean share of 0.2, and
better at 0.3 and 0.4.
"""

from __future__ import annotations

import copy

from tempering.methods.objectives.nll import NLL
from tempering.methods.scopes.averaged import Averaged
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import fingerprint, score, sft_rows, start, tiny, train
from tempering.types import Policy
from tempering.worlds.people import People

CLAIM = Claim(
    method="averaged",
    catalogue=("S227",),
    title="HMA against plain averaging: what a tuned model gets back and what it pays",
    claim="Going back to the model before tuning by learned shares of three groups of layers keeps more of new and old together than by one share.",
    baseline="plain averaging by the same mean share",
    metric="new and old facts",
    smallest_effect=0.02,
)
RATE, STEPS = 1e-3, 100
BACK_RATE, BACK_STEPS = 0.1, 40


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Shares of the new and of the old facts, and their mean."""
    new, old, base = People(60, start=20_000, seed=seed, kinds=("city", "job")), People(100), tiny()
    rows, scope = sft_rows(base, new.records("train")), Averaged(base="builtin:tiny", mean=0.3)
    inputs = {"claim": "hma", "rows": fingerprint(rows), "seed": seed, "steps": scale(STEPS), "lr": RATE}
    tuned = start(inputs, lambda: train(base, NLL(), rows, steps=scale(STEPS), seed=seed, lr=RATE))
    if arm == "method":
        handle = train(tuned, NLL(), rows, steps=scale(BACK_STEPS), seed=seed, lr=BACK_RATE, scope=scope).handle
    else:
        handle = scope.attach(copy.deepcopy(tuned.model))
    assert handle is not None
    back = Policy(handle.bake(), tuned.tokenizer)  # type: ignore[arg-type]
    found = {"new facts": score(back, new.probe("test", scale(150))), "old facts": score(back, old.probe("test", scale(150)))}
    return {"new and old facts": sum(found.values()) / 2, **found}
