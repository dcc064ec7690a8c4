"""SimPO makes the better of two answers the likelier one by token, which is how a model chooses what it writes; DPO's reward does not ask for that.

Meng et al. 2024 (arXiv 2405.14734, section 4.3) find that after DPO only about half of the pairs that its reward orders rightly are in that order by
mean log-prob, since a reference and the answers' lengths stand between them, and that SimPO, whose reward is the mean log-prob, closes the gap and
does not write at greater length. Here a quarter of the pairs is labelled the wrong way round. Both arms see the same pairs in the same order for as
many steps. Scored on held-out pairs by the gold reward's order, free of noise: is the better reply the likelier one by token? Beside it stand, of
what is written at temperature 1, words and gold reward. The rates are the better of 3e-4 and 1e-3 for each arm on seed 100, which is none of the
seeds that count.
"""

from __future__ import annotations

from tempering.items import mean, prompt_ids
from tempering.methods.objectives.dpo import DPO
from tempering.methods.objectives.simpo import SimPO
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import pair_rows, score, tiny, train
from tempering.sample import sample
from tempering.worlds.preferences import Preferences

CLAIM = Claim(
    method="simpo",
    catalogue=(),
    title="SimPO against DPO: is the better reply the likelier one by token, a quarter of the labels wrong",
    claim="With the same pairs and steps, SimPO finds the better of two held-out replies likelier, by mean log-prob, more often than DPO does.",
    baseline="DPO on the same pairs",
    metric="pair accuracy",
    smallest_effect=0.03,
)
RATES = {"baseline": 3e-4, "method": 3e-4}


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Pair accuracy by mean log-prob on held-out requests, and what is written to some of them."""
    world, start, steps = Preferences(noise=0.25, seed=seed), tiny(), scale(60)
    pairs = pair_rows(start, world.records("train", 8 * steps))
    tuned = train(start, SimPO() if arm == "method" else DPO(), pairs, steps=steps, seed=seed, lr=RATES[arm], batch_size=8)
    asked = [item["prompt"] for item in world.items("test", scale(40))]
    episodes = sample(tuned, [prompt_ids(tuned, prompt) for prompt in asked], n=2, temperature=1.0, max_new_tokens=64, seed=seed)
    texts = [(prompt, episode.text) for prompt, of in zip(asked, episodes, strict=True) for episode in of]
    return {
        "pair accuracy": score(tuned, world.probe("test", scale(300))),
        "words": mean([float(len(text.split())) for _, text in texts]),
        "gold reward": mean([world.reward(prompt, text) for prompt, text in texts]),
    }
