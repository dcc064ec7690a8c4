"""Of feedback of several kinds in one form, the half with the widest gaps from all clusters of prompts teaches more than a random half.

Aponte et al. 2024 (arXiv 2408.02861) bring ratings, labels and pairs into one form, keep a part of it by quality and diversity, and find it as good
as all of it or better. Here a judge sees the gold reward of two replies to a request with Gaussian noise of standard deviation 1.5 and says it in
one of three ways, by turns: both ratings from 1 to 5, rounded; which of the replies are good, above the middle, or not; or which is the better one.
The method keeps half of the pairs that this makes; the baseline a random half, as many. Both train a Bradley-Terry model for as many steps. Scored
on held-out pairs by the gold reward's order, free of noise. Beside it stand the share of right labels and, for the baseline, what all of the pairs
make in as many steps. The learning rate, one for both, is the best of 3e-4, 1e-3 and 3e-3 for the baseline on seed 100, which is none of the seeds
that count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tempering.items import mean
from tempering.making import Making, answer, user
from tempering.methods.objectives.bradley_terry import BradleyTerry
from tempering.methods.rewards.reward_model import RewardModel
from tempering.methods.streams.heterogeneous_feedback import HeterogeneousFeedback
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import pair_rows, tiny, train
from tempering.types import Policy, Record, Response
from tempering.worlds.base import rng
from tempering.worlds.preferences import Preferences

CLAIM = Claim(
    method="heterogeneous_feedback",
    catalogue=("S209",),
    title="The filtered half of ratings, labels and pairs against a random half",
    claim="After as many steps, a reward model on the filtered half of mixed feedback orders more held-out pairs as the gold reward does.",
    baseline="the same reward model on a random half of the same pairs",
    metric="pair accuracy",
    smallest_effect=0.03,
)
LR = 1e-3
NOISE = 1.5


def feedback(world: Preferences, n: int) -> Iterator[Record]:
    """What the judge says of a request's two replies: ratings, labels or a pair, by turns. Two labels that agree make no pair."""
    asked: set[str] = set()
    for item in world.items("train"):
        if item["prompt"] in asked:
            continue
        asked.add(item["prompt"])
        source, kind = rng("judge", world.seed, item["id"]), ("rating", "label", "pair")[len(asked) % 3]
        replies = [item["answer"], item["worse"]]
        source.shuffle(replies)
        seen = [world.reward(item["prompt"], reply) + source.gauss(0, NOISE) for reply in replies]
        # The gold reward runs from 0 to 3, the ratings from 1 to 5.
        ratings = [float(min(5, max(1, round(1 + 4 * value / 3)))) for value in seen]
        if kind == "pair":
            responses, better = [answer(reply) for reply in replies], ((0, 1),) if seen[0] > seen[1] else ((1, 0),)
        else:
            better = ()
            responses = [
                answer(reply, score=rating) if kind == "rating" else Response(answer(reply).messages, label=value > 1.5)
                for reply, rating, value in zip(replies, ratings, seen, strict=True)
            ]
        yield Record((user(item["prompt"]),), tuple(responses), better, item["id"], item["id"])
        if len(asked) == n:
            return


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Share of held-out pairs in the gold order, and of right labels among the pairs."""
    import torch

    from tempering.models.value import ValueModel

    world, steps = Preferences(seed=seed), scale(40)
    records = list(feedback(world, 20 * steps))
    every = list(HeterogeneousFeedback(keep=1.0)(records, Making(seed)))
    kept = list(HeterogeneousFeedback()(records, Making(seed)))
    part = kept if arm == "method" else rng("half", seed).sample(every, len(kept))
    items = list(world.items("test", scale(300)))

    def accuracy(pairs: Sequence[Record]) -> float:
        start = tiny()
        model = ValueModel(start.model)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            torch.nn.init.normal_(model.value_head.weight, std=0.02)
        tuned = train(Policy(model, start.tokenizer), BradleyTerry(), pair_rows(start, pairs), steps=steps, seed=seed, lr=LR, batch_size=8)
        judge = RewardModel(tuned)
        better, worse = (judge([item["prompt"] for item in items], [item[key] for item in items]) for key in ("answer", "worse"))
        return float((better > worse).mean())

    gold = [[world.reward(r.prompt[0].content, one.messages[0].content) for one in r.responses] for r in part]
    others = {"right labels": mean([float(good > bad) for good, bad in gold]), "pairs": float(len(part))}
    return {"pair accuracy": accuracy(part), **others, **({"all pairs": accuracy(every)} if arm == "baseline" else {})}
