"""A request costs one shard, and the shards together are better than what one model learns for the same cost.

“The Frontier of Data Erasure” (S076) surveys how data is taken out without training again in full; sharding is exact and costs one shard. Here
builtin:tiny learns 280 questions and answers about ten strangers in four shards by a hash of the row, the average of four models answers, and a
request takes ten rows of one shard, which is then trained again. The baseline has as many steps for its answer to the request as that shard, and
trains one model on all rows that stay. Neither has seen what is to go since it was trained from the start. Scored is the accuracy about all ten
people in wordings that no row has: every fact stands in four rows, so the request takes no fact out entirely. On seed 9, which does not count, 15
steps gave 0.26 and 0.46; 40 gave 0.89, where there is no room, and 0.84: what shards know of few rows each has its limit.
"""

from __future__ import annotations

from tempering.forgetting.shards import sharded, voting
from tempering.methods.objectives.nll import NLL
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import score, sft_rows, tiny, train
from tempering.types import Policy, Row
from tempering.worlds.people import People

CLAIM = Claim(
    method="sisa",
    catalogue=("S076",),
    title="One of four shards trained again (SISA) against one model trained again for as many steps",
    claim="For what it costs to train one shard again, sharded models know more of what stays than a model trained on all of it.",
    baseline="one model trained from the start on all rows that stay, for as many steps as one shard",
    metric="accuracy on people",
    smallest_effect=0.05,
)
SHARDS, STEPS, RATE, REQUEST = 4, 15, 1e-3, 10


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Accuracy after the request, and the steps that it took."""
    start, world = tiny(), People(10, start=40_000 + 10 * seed)
    shards = [list(rows) for rows in sharded(sft_rows(start, world.records("train")), SHARDS)]
    shards[0] = shards[0][REQUEST:]

    def learned(rows: list[Row], order: int) -> Policy:
        return train(start, NLL(), rows, steps=scale(STEPS), seed=seed * SHARDS + order, lr=RATE)

    if arm == "baseline":
        policy = learned([row for rows in shards for row in rows], 0)
    else:
        policy = voting([learned(rows, k).model for k, rows in enumerate(shards)], start, "shards")
    return {CLAIM.metric: score(policy, world.probe("test", scale(140)))}
