"""Requests to forget that come one after the other wear a model down.

Shi et al. 2024 (arXiv 2407.06460, MUSE) send requests in sequence and find that what should stay goes on falling with their number, with every method
that they try. Here a request is ten of the people whom builtin:tiny knows, and NPO with the retain rows' likelihood answers each with 16 steps. The
baseline is the model after the first request, the method the one after the fourth; both are asked the same held-out questions about people who are
in no request. Retain rows are about people in none, too, so none of them contradicts a request. The training (beta 1, 1e-3) was chosen on seed 9
for one request; no sequence was run before. Accuracy on those of the first request, who should stay forgotten, stands beside.
"""

from __future__ import annotations

from tempering.config import Schedule
from tempering.data.forgetting import forget_row, retain_row
from tempering.data.streams import Shuffled, Together
from tempering.methods.objectives.npo import NPO
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import score, tiny, train
from tempering.replications._forgetting import BATCH, ten

CLAIM = Claim(
    method="npo",
    catalogue=("S144",),
    title="Four requests to forget in sequence against the first of them",
    claim="After the fourth request a model knows less about people of no request than after the first.",
    baseline="the model after the first request",
    metric="accuracy on those who stay",
    smallest_effect=0.1,
    higher_is_better=False,
)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Accuracy on people of no request, and on those of the first."""
    policy, probes = tiny(), [ten(other).probe("test", scale(70)) for other in (seed + 5, seed)]
    kept = [row for i in range(4, 10) for record in ten(seed + i).records("train") if (row := retain_row(record, policy.tokenizer))]
    for request in range(4 if arm == "method" else 1):
        going = [row for record in ten(seed + request).records("train") if (row := forget_row(record, policy.tokenizer))]
        rows = Together(Shuffled(going, BATCH, seed), Shuffled(kept, BATCH, seed + request))
        policy = train(policy, NPO(beta=1.0), rows, steps=scale(16), seed=seed, lr=1e-3, schedule=Schedule(name="constant"))
    stays, goes = (score(policy, probe) for probe in probes)
    return {"accuracy on those who stay": stays, "accuracy on those of the first request": goes}
