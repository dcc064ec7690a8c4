"""What a client's updates brought goes when they are taken out of every round, and not when the others only go on without it.

The survey of federated language models (S096) reports that a client's contributions can be removed without training from scratch, by rolling its
stored updates back and recalibrating. Here four clients teach builtin:tiny five strangers each, by three rounds of federated averaging; then one of
them leaves. The method takes its part out of every round and has the other three train one round more, as `temper run federated` does; the baseline
has them train that round on the model as it is. Scored is the accuracy on people of the three less that on people of the one who left, in wordings
that no row has. Seed 9, which does not count, gave 0.48 and 0.81 with 30 steps a client and round; 20 are taken to save time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tempering.forgetting.shards import averaged
from tempering.items import mean
from tempering.methods.objectives.nll import NLL
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import score, sft_rows, tiny, train
from tempering.types import Policy
from tempering.worlds.people import People

CLAIM = Claim(
    method="federated",
    catalogue=("S096",),
    title="A client's updates taken out of every round against going on without it",
    claim="What stays and what a client brought come further apart when its updates are subtracted before the others go on.",
    baseline="one more round without the client",
    metric="accuracy on others less accuracy on the client's people",
    smallest_effect=0.1,
    range=(-0.5, 1.0),
)
CLIENTS, ROUNDS, STEPS, RATE = 4, 3, 20, 1e-3


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The difference, and what it is made of."""
    start = tiny()
    worlds = [People(5, start=50_000 + 100 * seed + 5 * client) for client in range(CLIENTS)]
    rows = [sft_rows(start, world.records("train")) for world in worlds]

    def weights(policy: Policy) -> dict[str, Any]:
        return {name: p.detach().double() for name, p in policy.model.state_dict().items()}

    def holding(theta: Mapping[str, Any]) -> Policy:
        made = tiny()
        made.model.load_state_dict(theta)
        return made

    def round_of(number: int, theta: Mapping[str, Any], who: Sequence[int]) -> list[dict[str, Any]]:
        at = holding(theta)
        return [weights(train(at, NLL(), rows[c], steps=scale(STEPS), seed=CLIENTS * (10 * seed + number) + c, lr=RATE)) for c in who]

    theta = without = weights(start)
    for number in range(scale(ROUNDS, 1)):
        made = round_of(number, theta, range(CLIENTS))
        # The leaving client is the first; what the others' mean changed in this round is kept.
        without = averaged([without, *made[1:], theta], [1.0, *[1 / (CLIENTS - 1)] * (CLIENTS - 1), -1.0])
        theta = averaged(made, [1 / CLIENTS] * CLIENTS)
    last = round_of(ROUNDS, without if arm == "method" else theta, range(1, CLIENTS))
    policy = holding(averaged(last, [1 / (CLIENTS - 1)] * (CLIENTS - 1)))
    gone, *kept = (score(policy, world.probe("test", scale(70))) for world in worlds)
    return {CLAIM.metric: mean(kept) - gone, "accuracy on others": mean(kept), "accuracy on the client's people": gone}
