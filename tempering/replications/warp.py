"""Reinforcement averaged in weight space earns more at the same distance from the start than one run of as many steps: WARP's front.

Rame et al. 2024 (arXiv 2406.16768) anchor each run to the moving average of its own policy, merge the runs of a round along the arc, go part of the
way back and begin again; going from the first start to the last merge draws a front of reward against distance that lies above plain
reinforcement's. Here builtin:tiny replies to requests for a gold reward (-1 to 3; on the topic, courteous, brief): two rounds of two runs by RLOO,
mu and eta as the recipe has them. The baseline is one run from the same start, anchored to it, for as many steps as all four; its front are its
policies on the way, most of them early. The distance is KL(policy || start) in nats per answer, exact at every token of the policy's own samples.
Scored is the mean height of the front over distances from 0 to 1.5 nats, on lines between its points, level where it ends. Beside it stand the
points, and the height of a third front: from the start straight to the baseline's end. After a first look at seed 9, where the last merge was 1.8
nats away and the baseline up to 5, the distances were cut from 6 to 1.5 nats and the baseline looked at more often early, since a line over few
points flattered the merges.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np

from tempering.methods.credits.leave_one_out import LeaveOneOut
from tempering.methods.merges.linear import Linear
from tempering.methods.merges.nuslerp import NuSlerp
from tempering.methods.objectives.rloo import RLOO
from tempering.methods.scopes.full import Full
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import TRAINING, tiny, train
from tempering.replications._merging import merged
from tempering.replications._replies import TOKENS, Replies, requests
from tempering.rollouts.anchored import Anchored
from tempering.rollouts.play import How, play
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.stream import Conversations
from tempering.types import Policy, Role

CLAIM = Claim(
    method="warp",
    catalogue=("S063",),
    title="Two rounds of two averaged runs against one run as long, at equal distance from the start",
    claim="From the start to the last merge, the gold reward is above that of one plain run, as long as all, at the same distance.",
    baseline="one run, anchored to the start, for as many steps as all runs",
    metric="height of the front",
    smallest_effect=0.05,
    range=(-1.0, 3.0),
)
ROUNDS, RUNS, STEPS, RATE = 2, 2, 10, 3e-4
MU, ETA, COST = 0.01, 0.3, 0.05
FAR = 1.5
SHARES = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
LOOKS = (1, 2, 3, 4, 5, 6, 8, 12, 40)


def learned(begin: Policy, mu: float, steps: int, seed: int, seen: list[Policy] | None = None) -> Policy:
    """A run of reinforcement, anchored to the moving average of its policy (mu = 0: to its start); `seen` takes what it is on the way."""
    tasks, training = requests(seed // 100, "train", 400), TRAINING.model_copy(update={"batch_size": 6})
    how = {"training": training, "max_new_tokens": TOKENS, "seed": seed}
    stream = Conversations(begin.tokenizer, Replies(), tasks, LeaveOneOut(), Rollouts(samples=4, kl_cost=COST), **how)  # type: ignore[arg-type]
    anchor = Role(copy.deepcopy(begin.model), Full())  # type: ignore[arg-type]

    def look(step: int, policy: Policy) -> None:
        if seen is not None and step in LOOKS:
            seen.append(Policy(copy.deepcopy(policy.model), policy.tokenizer))

    return train(begin, RLOO(), Anchored(stream, mu), steps=steps, seed=seed, lr=RATE, roles={"reference": anchor}, look=look)


def between(a: Policy, b: Policy, share: float) -> Policy:
    """What lies this share of the way from one model to another."""
    return merged(Linear(weight=(1 - share, share)), [a, b])


def place(policy: Policy, start: Policy, seed: int, scale: Scale) -> tuple[float, float]:
    """Distance in nats per answer, and gold reward, of 4 sampled answers to each of some held-out requests."""
    from tempering.measure import kls_of

    groups = play(policy, Replies(), list(enumerate(requests(seed, "test", scale(40)))), 4, How(TOKENS, seed=seed))
    played = [one for group in groups for one in group]
    pairs = [(turn.prompt_ids, turn.ids) for one in played for turn in one.turns]
    kl = float(np.mean([float(kl_T.sum()) for kl_T in kls_of(policy, start, pairs)]))
    return kl, float(Replies().judge(played).mean())


def height(points: list[tuple[float, float]]) -> float:
    """The mean of a front over distances from 0 to `FAR`."""
    kl, reward = zip(*sorted(points), strict=True)
    return float(np.interp(np.linspace(0, FAR, 31), kl, reward).mean())


def arm(seed: int, arm: str, scale: Scale) -> Mapping[str, float]:
    """The height, and the front's points."""
    start, steps, seen, others = tiny(), scale(STEPS), list[Policy](), list[Policy]()
    if arm == "baseline":
        end = learned(start, 0.0, ROUNDS * RUNS * steps, 100 * seed, seen)
        others = [between(start, end, share) for share in SHARES[:-1]]
    else:
        now = last = start
        for number in range(ROUNDS):
            runs = [learned(now, MU, steps, 100 * seed + 1 + RUNS * number + i) for i in range(RUNS)]
            last = merged(NuSlerp(), runs, now)
            now = between(now, last, ETA)
        seen = [between(start, last, share) for share in SHARES]
    points, more = ([place(policy, start, seed, scale) for policy in some] for some in ((start, *seen), others))
    beside = {"height of the straight front": height([points[0], *more, points[-1]])} if more else {}
    told = {f"{i}, {name}": value for i, point in enumerate(points) for name, value in zip(("nats", "reward"), point, strict=True)}
    return {CLAIM.metric: height(points), **beside, **told}
