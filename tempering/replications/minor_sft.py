"""MinorSFT learns without moving the model as far from what it was: it keeps more of what it knew than cross-entropy does.

Xie et al. 2024 (arXiv 2408.10642) report a smaller deviation from the original model and better answers in the domain than plain fine-tuning. Here
the domain are the facts of 40 people whom the model does not know, one answer in ten of them wrong, and what it knew are those of 100 others. Both
arms see the same rows in the same order for as many steps, each row alike, at the same learning rate; beta is the default. Scored by greedy answers
about the people it knew; accuracy on the new ones, in wordings that were not trained on, stands beside it. The rate is
1e-3: at 3e-3 both arms keep next to nothing (on seed 100, which is none of the seeds that count).
"""

from __future__ import annotations

from tempering.methods.objectives.minor_sft import MinorSFT
from tempering.methods.objectives.nll import NLL
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import noisy, score, sft_rows, tiny, train
from tempering.worlds.people import People

CLAIM = Claim(
    method="minor_sft",
    catalogue=("S104",),
    title="MinorSFT against mean cross-entropy: what is kept of what the model knew",
    claim="After the same rows and steps, a model tuned by MinorSFT still answers more of the questions right that it could answer before.",
    baseline="the same model tuned by the mean cross-entropy of each answer on the same rows",
    metric="kept accuracy",
    smallest_effect=0.03,
)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Accuracy on people the model knew, and on those it was tuned on."""
    new, old, start = People(40, start=20_000, seed=seed), People(100), tiny()
    objective = MinorSFT() if arm == "method" else NLL(norm="segment_mean")
    tuned = train(start, objective, sft_rows(start, noisy(new, 0.1, seed)), steps=scale(60), seed=seed, lr=1e-3)
    return {"kept accuracy": score(tuned, old.probe("test", scale(200))), "new accuracy": score(tuned, new.probe("test", scale(200)))}
