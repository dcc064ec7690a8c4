"""One loss for demonstrations and rated answers keeps the facts that preference training after fine-tuning forgets.

Wang et al. 2024 (UFT: Unifying Fine-Tuning of SFT and RLHF/DPO/UNA) train on both kinds of data at once, through one implicit reward, and find less
forgetting than with SFT and then DPO. Here the demonstrations are facts about 60 people whom the model does not know, the feedback pairs of replies
to requests, a quarter of them labelled wrong. The baseline takes half of its steps by cross-entropy on the facts and then half by DPO on the pairs;
the method takes as many steps on rows of both, the pairs' answers labelled good and bad, and sees what the baseline sees. The score is the mean of
two shares: facts that are told right in held-out wordings, and held-out pairs in the gold reward's order; each stands beside it. On seed 100, which
is none of the seeds that count, 1e-3 and beta 0.01 were best by that score for the method, of 3e-4 and 1e-3 with beta 0.1 and of 1e-3 with beta
0.01; and 3e-4 for the baseline's DPO, of 3e-4 and 1e-3; for its SFT 1e-3 is the only rate that was tried.
"""

from __future__ import annotations

from dataclasses import replace

from tempering.data.feedback import labelled_row
from tempering.methods.objectives.dpo import DPO
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.uft import UFT
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import pair_rows, score, sft_rows, tiny, train
from tempering.types import Response, Row
from tempering.worlds.people import People
from tempering.worlds.preferences import Preferences

CLAIM = Claim(
    method="uft",
    catalogue=("S021",),
    title="UFT on facts and preferences at once against SFT and then DPO",
    claim="After the same data and steps, one stage of UFT knows facts and preferences better, on average, than SFT followed by DPO does.",
    baseline="SFT on the facts, then DPO on the pairs, each for half of the steps",
    metric="facts and preferences",
    smallest_effect=0.05,
)
RATES = {"facts": 1e-3, "pairs": 3e-4, "method": 1e-3}
BETA = 0.01


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Share of facts, share of pairs, and their mean."""
    facts, world, base = People(60, start=20_000, seed=seed, kinds=("city", "job")), Preferences(noise=0.25, seed=seed), tiny()
    half = scale(60)
    told, judged = list(facts.records("train")), list(world.records("train", 8 * half))
    if arm == "method":
        good = [replace(r, responses=(Response(r.responses[0].messages, label=True),)) for r in told]
        # Twice the 480 facts and once the 480 pairs: what the baseline sees of them.
        rows: list[Row] = [row for r in (*good * 2, *judged) if (row := labelled_row(r, base.tokenizer))]
        tuned = train(base, UFT(beta=BETA), rows, steps=2 * half, seed=seed, lr=RATES["method"], batch_size=12)
    else:
        first = train(base, NLL(norm="segment_mean"), sft_rows(base, told), steps=half, seed=seed, lr=RATES["facts"], batch_size=16)
        tuned = train(first, DPO(), pair_rows(base, judged), steps=half, seed=seed, lr=RATES["pairs"], batch_size=8)
    known, liked = score(tuned, facts.probe("test")), score(tuned, world.probe("test", scale(200)))
    return {"facts and preferences": (known + liked) / 2, "facts": known, "preferences": liked}
