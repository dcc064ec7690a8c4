"""A model that can tell quality when it is asked for it sets margins in DPO that follow how much better an answer is.

Yu et al. 2024 (arXiv 2405.21040) take from the policy itself, under a prompt that asks for quality, how much better the chosen answer is, and find
Sr-DPO better than DPO, which asks every pair for the same. The method leans on what a model knows, so both arms begin with one that was taught to
write good replies where quality is asked for and replies of every kind where it is not. Then both see the same pairs in the same order for as many
steps, with the same beta. A quarter of the labels is wrong. Scored on held-out pairs by the rank correlation between the implicit margin and the gap
of gold rewards, free of noise. The rate is the better of 3e-4 and 1e-3 for each arm on seed 100, which is none of the seeds that count. There lambda
0.1, the default, was worse than 0.03, and 0.01, all but DPO, was better; 0.03 is taken.
"""

from __future__ import annotations

import numpy as np

from tempering.data import quality_row
from tempering.data.feedback import QUALITY
from tempering.items import answer_ids, ending, mean, prompt_ids
from tempering.making import asking
from tempering.measure import logps_of
from tempering.methods.objectives.dpo import DPO
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.sr_dpo import SrDPO
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import fingerprint, sft_rows, start, tiny, train
from tempering.types import Policy, Record
from tempering.worlds.base import record
from tempering.worlds.preferences import Preferences

CLAIM = Claim(
    method="sr_dpo",
    catalogue=("S168",),
    title="Sr-DPO against DPO: do implicit margins follow gold gaps",
    claim="After the same pairs and steps, the implicit margins of held-out pairs follow the gaps of their gold rewards more closely.",
    baseline="DPO on the same pairs from the same start",
    metric="rank correlation",
    smallest_effect=0.05,
)
RATES = {"baseline": 1e-3, "method": 1e-3}
REFINE = 0.03


def begin(seed: int, scale: Scale) -> Policy:
    """A model that writes good replies where quality is asked for, and replies of every kind where it is not."""
    world, base, steps = Preferences(seed=seed), tiny(), scale(60)
    plain = list(world.records("train", 8 * steps, view="demonstrations"))
    good = [record(world.name, item) for item in world.items("train", 40 * steps) if item["gold"][0] == 3][: 8 * steps]
    rows = sft_rows(base, [*plain, *(Record(asking(r, before=f"{QUALITY}\n\n"), r.responses) for r in good)])
    inputs = {"claim": "sr_dpo", "rows": fingerprint(rows), "steps": steps, "seed": seed, "lr": 1e-3}
    return start(inputs, lambda: train(base, NLL(), rows, steps=steps, seed=seed, lr=1e-3))


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Rank correlation on held-out pairs, and how often the better answer has the higher implicit reward."""
    from scipy import stats

    world, first, steps = Preferences(noise=0.25, seed=seed), begin(seed, scale), scale(40)
    rows = [row for r in world.records("train", 16 * steps) if (row := quality_row(r, first.tokenizer))]
    objective = SrDPO(refine=REFINE) if arm == "method" else DPO()
    tuned = train(first, objective, rows, steps=steps, seed=seed, lr=RATES[arm])
    items = list(world.items("test", scale(300)))
    asked = [(prompt_ids(first, i["prompt"]), answer_ids(first, i[key]) + ending(first)) for i in items for key in ("answer", "worse")]
    ratios = [float(new.sum() - old.sum()) for new, old in zip(logps_of(tuned, asked), logps_of(first, asked), strict=True)]
    margins = [better - worse for better, worse in zip(ratios[::2], ratios[1::2], strict=True)]
    gaps = [item["gold"][0] - item["gold"][1] for item in items]
    return {
        "rank correlation": float(np.corrcoef(stats.rankdata(margins), stats.rankdata(gaps))[0, 1]),
        "pair accuracy": mean([float(m > 0) for m in margins]),
    }
