"""Critiques for easy prompts, better answers for medium ones and preferences for hard ones teach more than as many preferences do.

Yu et al. 2023 (arXiv 2310.06450, constructive and diverse feedback) part prompts by difficulty, give each part its own kind of feedback, train on
the three jointly, and find better answers than from preferences alone, with less data. Here a request is the harder the lower the gold rewards of
its two replies are. A critic says what is right and wrong about a reply, a refiner writes a reply of the highest gold reward, and a judge says which
of the two is better; none of them errs. Both arms take as many steps with as many items of feedback a step: 18 pairs by DPO, or six of each kind, by
cross-entropy and DPO added up. Scored by the share of the best replies, of gold reward 3, among what is written to held-out requests at temperature
1 (greedy answers are all good after a few steps); beside it stand the mean gold reward, the accuracy on held-out pairs, and, for the baseline, the
share that refinements alone give. The rates are the better of 3e-4 and 1e-3 for the baseline and the best of 3e-4, 1e-3 and 3e-3 for the method, by
mean gold reward at 8 or 12 steps on seed 100, which is none of the seeds that count; the steps, 6, leave the baseline room.
"""

from __future__ import annotations

from dataclasses import replace

from tempering.items import mean, prompt_ids
from tempering.making import Making
from tempering.methods.objectives.dpo import DPO
from tempering.methods.objectives.nll import NLL
from tempering.methods.streams.cdf import CDF
from tempering.methods.streams.cdf_pairs import CDFPairs
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import pair_rows, score, sft_rows, tiny, train
from tempering.sample import sample
from tempering.types import Objective, Record, Row
from tempering.worlds.base import rng, says
from tempering.worlds.preferences import TOPICS, Gold, Preferences

CLAIM = Claim(
    method="cdf",
    catalogue=("S204",),
    title="Critiques, refinements and preferences by difficulty against preferences alone",
    claim="After as many items of feedback, a model that learned from all three kinds writes good answers more often.",
    baseline="DPO on as many preferences",
    metric="best replies",
    smallest_effect=0.05,
)
RATES = {"baseline": 1e-3, "method": 3e-3}
STEPS = 6
_SAID = {
    "It is about the right thing.": ("It is not about what was asked.", Gold(topic=1, courtesy=0, length=0)),
    "It is polite.": ("It is not polite.", Gold(topic=0, courtesy=1, length=0)),
}


def criticised(world: Preferences, record: Record, best: dict[str, list[str]]) -> Record:
    """The record with a critique and a better version of each reply; none of a reply that cannot be better."""
    prompt, critiques, refinements = record.prompt[0].content, [], []
    for i, reply in enumerate(r.messages[0].content for r in record.responses):
        said = [good if gold(prompt, reply) > 0 else bad for good, (bad, gold) in _SAID.items()]
        critiques.append(" ".join([*said, "It is short." if len(reply.split()) <= world.gold.budget else "It is too long."]))
        better = rng("refine", world.seed, record.id, i).choice(next(replies for topic, replies in best.items() if says(prompt, topic)))
        refinements.append("" if world.reward(prompt, reply) == 3 else better)
    return replace(record, tags={**record.tags, "critiques": critiques, "refinements": refinements})


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Gold reward of what is written, and pair accuracy."""
    world, start, steps = Preferences(seed=seed), tiny(), scale(STEPS)
    best: dict[str, list[str]] = {topic: [] for topic in TOPICS}
    for item in world.items("train", 4000):
        if item["gold"][0] == 3:
            best[next(topic for topic in TOPICS if says(item["prompt"], topic))].append(item["answer"])
    records = [criticised(world, record, best) for record in world.records("train", 24 * steps, view="ratings")]
    making = Making(seed)
    everything = list(CDFPairs(easy=0, medium=0)(records, making))

    def tuned(objective: Objective, rows: list[Row], batch_size: int) -> dict[str, float]:
        policy = train(start, objective, rows, steps=steps, seed=seed, lr=RATES[arm], batch_size=batch_size)
        asked = [item["prompt"] for item in world.items("test", scale(50))]
        written = sample(policy, [prompt_ids(policy, prompt) for prompt in asked], n=4, temperature=1.0, max_new_tokens=64, seed=seed)
        rewards = [world.reward(prompt, episode.text) for prompt, episodes in zip(asked, written, strict=True) for episode in episodes]
        return {
            "best replies": mean([float(x == 3) for x in rewards]),
            "gold reward": mean(rewards),
            "pair accuracy": score(policy, world.probe("test", scale(150))),
        }

    if arm == "baseline":
        refined = sft_rows(start, CDF(easy=0, medium=1)(records, making))
        alone = tuned(NLL(norm="segment_mean"), refined[: 18 * steps], 18)
        return {**tuned(DPO(), pair_rows(start, everything)[: 18 * steps], 18), "refinements alone": alone["best replies"]}
    lessons = list(CDF()(records, making))
    kinds = [sft_rows(start, [lesson for lesson in lessons if lesson.tags["part"] == part]) for part in ("easy", "medium")]
    pairs = pair_rows(start, CDFPairs()(records, making))
    rows: list[Row] = [{"train": (*a["train"], *b["train"]), **pair} for a, b, pair in zip(*kinds, pairs, strict=False)]
    return tuned(NLL(norm="segment_mean") + DPO(), rows[: 6 * steps], 6)
