"""What a model declines to say is still in it, and membership inference shows it.

RWKU (Jin et al. 2024, S075) has rejection tuning among its ways to unlearn, and measures beside questions whether texts about what is to go can be
told from others by membership inference. Here builtin:tiny learns five strangers beside five others, and then to decline questions about the five,
until it says at most a tenth of the answers. Scored is the AUC of Min-40% between its taught answers and those about five people whom it never met,
for the method of the declining model, and for the baseline of a model that learned the others alone. The only rate tried, on seed 9, which does not
count, gave 0.88 and 0.63, and the declining model said 7% of the answers.
"""

from __future__ import annotations

from tempering.forgetting import muse
from tempering.measure import measure
from tempering.methods.objectives.idk import Idk
from tempering.proof.claims import Claim, Scale
from tempering.replications._newcomers import learned, silent, those
from tempering.worlds.people import People

CLAIM = Claim(
    method="idk",
    catalogue=("S075",),
    title="Membership inference on a model that declines against one that never saw the rows",
    claim="After rejection tuning the rows are still told from unseen ones, although their answers are no longer said.",
    baseline="a model that never saw the rows",
    metric="AUC of Min-40%",
    smallest_effect=0.1,
)
RATE = 1e-3


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The AUC, and for the method what is still said."""
    told: dict[str, float] = {}
    if arm == "baseline":
        policy = learned(seed, scale, everybody=False)
    else:
        policy, told = silent(Idk(), seed, scale, RATE, refusals=True)
    seen, unseen = (
        muse.texts(world.records("train"), scale(140), name) for world, name in ((those(seed)[0], "in"), (People(5, start=50_000), "out"))
    )
    found = next(p for p in measure(policy, [muse.membership(seen, unseen)]).probes if p.probe == muse.MEMBERSHIP)
    return {CLAIM.metric: found.summary["auc"], **told}
