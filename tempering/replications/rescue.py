"""A ranking of which only a part can be trusted is better used as a partial order than in full.

Wang et al. 2023 (arXiv 2311.08252, RRescue) rank candidates by whether their label is right and leave the rest unordered; that is at least as good
as a full order whose ranks are noisy. Here a request has four replies; which ones are on the topic is known, and their gold reward only with
Gaussian noise of standard deviation 2. The full order ranks by the noisy reward; the partial one sets replies on the topic above the others. Both
arms see the same replies in the same order for as many steps, with the same loss, and imitate one best reply: that of the highest noisy reward among
those on the topic. Scored on held-out pairs by the gold reward, free of noise. The baseline's rate is the best of 3e-4, 1e-3 and 3e-3 on seed 100,
which is none of the seeds that count; the method's, 1e-3, is the only one that was tried. Alpha is 1 in both.
"""

from __future__ import annotations

from collections.abc import Iterator

from tempering.data import ranked_row
from tempering.methods.objectives.rescue import Rescue
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import score, tiny, train
from tempering.types import Message, Record, Response
from tempering.worlds.base import rng, says
from tempering.worlds.preferences import TOPICS, Preferences

CLAIM = Claim(
    method="rescue",
    catalogue=("S224",),
    title="RRescue with a partial order against a full order of noisy ranks",
    claim="With the same replies and steps, a partial order by what is certain tells the better of two held-out replies apart more often.",
    baseline="the same loss on a full order by noisy rewards",
    metric="pair accuracy",
    smallest_effect=0.03,
)


def ranked(world: Preferences, n: int, partial: bool) -> Iterator[Record]:
    """Requests with four replies and their scores: 2 for the imitated one, 1 and 0 for on and off the topic; or, in full, noisy rewards."""
    pools: dict[str, dict[str, float]] = {}
    for item in world.items("train"):
        pool = pools.setdefault(item["prompt"], {})
        for reply, gold in zip((item["answer"], item["worse"]), item["gold"], strict=True):
            if len(pool) < 4 and reply not in pool:
                pool[reply] = gold + rng("rank", world.seed, item["prompt"], reply).gauss(0, 2)
                if len(pool) == 4 and (made := scored(item["prompt"], pool, partial)):
                    yield made
                    n -= 1
        if n <= 0:
            return


def scored(prompt: str, pool: dict[str, float], partial: bool) -> Record | None:
    """A request with its replies; None where all or none of them are on the topic."""
    on = {reply: any(says(reply, topic) for topic in TOPICS) for reply in pool}
    if len(set(on.values())) == 1:
        return None
    first = max((reply for reply in pool if on[reply]), key=pool.__getitem__)
    scores = {reply: float(on[reply]) if partial else noisy for reply, noisy in pool.items()}
    scores[first] = max(2.0, *scores.values()) + 1
    return Record((Message("user", prompt),), tuple(Response((Message("assistant", r),), score=s) for r, s in scores.items()))


def arm(seed: int, arm: str, scale: Scale) -> float:
    """Pair accuracy on held-out requests."""
    world, start, steps = Preferences(seed=seed), tiny(), scale(60)
    rows = [row for record in ranked(world, 8 * steps, arm == "method") if (row := ranked_row(record, start.tokenizer))]
    tuned = train(start, Rescue(alpha=1.0), rows, steps=steps, seed=seed, lr=1e-3 if arm == "method" else 3e-3, batch_size=8)
    return score(tuned, world.probe("test", scale(300)))
