"""What training forgot can still be told from what was never learned, by TOFU's forget quality.

Maini et al. 2024 (arXiv 2401.06121) compare the truth ratios of an unlearned model with those of one retrained without the rows, by the test of
Kolmogorov and Smirnov, and find that none of the baselines forgets effectively. Here builtin:tiny learns five strangers beside five others; the
oracle learns the others alone. GradDiff takes the five out again and stops at the first of 20 looks at which at most a tenth of the answers in
held-out wordings is left (else at the last). Scored is the largest distance of its truth ratios from the oracle's, over the questions in those
wordings; the method is to train again, in another order of rows, which is as near as one can come. On seed 9, which does not count, 24 steps at this
rate left 37% of the answers and a distance of 0.37, against 0.07; therefore 40 steps.
"""

from __future__ import annotations

from tempering.forgetting import tofu
from tempering.measure import measure
from tempering.methods.objectives.gradient_ascent import GradientAscent
from tempering.methods.probes.truth_ratio import TruthRatio
from tempering.proof.claims import Claim, Scale
from tempering.replications._newcomers import learned, silent, those

CLAIM = Claim(
    method="truth_ratio",
    catalogue=("S092",),
    title="Forget quality of GradDiff against that of training again",
    claim="A model that was trained to forget is further from one that never saw the rows than a second such model is.",
    baseline="gradient ascent with the likelihood of the retain rows (GradDiff), once the answers are gone",
    metric="Kolmogorov-Smirnov statistic of the truth ratios",
    smallest_effect=0.1,
    higher_is_better=False,
)
RATE = 3e-4


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The distance from the oracle, and for the baseline what it still knows."""
    oracle, items = learned(seed, scale, everybody=False), tofu.facts(those(seed)[0].records("test"), scale(70))
    told: dict[str, float] = {}
    if arm == "baseline":
        policy, told = silent(GradientAscent(retain_loss="nll"), seed, scale, RATE)
    else:
        policy = learned(seed, scale, everybody=False, order=1)
    probe = TruthRatio(name=tofu.FORGET_TRUTH_RATIO, items=items, side="target")
    quality = tofu.forget_quality(*(measure(of, [probe]) for of in (policy, oracle)))  # pyright: ignore[reportArgumentType]
    assert quality is not None
    return {CLAIM.metric: quality.statistic, **told}
