"""Inverse soft-Q learning imitates several good answers with more variety than cross-entropy does.

Wulfmeier et al. 2024 (arXiv 2409.01369) find that fine-tuning with the temporal-difference penalty gives as good answers as cross-entropy with more
diversity. Here each topic has twelve best replies (on the topic, courteous and short), of which a few are shown for some requests. Both arms see the
same 64 rows, in the same order, for as many steps. Scored on held-out requests: how many different best replies are among twelve samples, at
temperature 1 (about 7.8 of 12 for one that draws from all of them alike). This needs quality and variety both; each stands beside it.
The rates are the best of 3e-4, 1e-3 and 3e-3 for each arm on seed 100, which is none of the seeds that count; lambda is the default.
"""

from __future__ import annotations

from itertools import islice

from tempering.items import mean, prompt_ids
from tempering.methods.objectives.iq_learn import IQLearn
from tempering.methods.objectives.nll import NLL
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import sft_rows, tiny, train
from tempering.sample import sample
from tempering.worlds.base import record
from tempering.worlds.preferences import Preferences

CLAIM = Claim(
    method="iq_learn",
    catalogue=("S165",),
    title="Inverse soft-Q learning against cross-entropy: different good answers among twelve samples",
    claim="After the same few rows and steps, more different best replies are among the samples of a model tuned with the penalty.",
    baseline="the same model tuned by cross-entropy on the same rows",
    metric="different best replies",
    smallest_effect=0.03,
)
SAMPLES = 12


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Different best replies over samples; the share of best replies; and the share of different replies."""
    world, start = Preferences(seed=seed), tiny()
    best = islice((item for item in world.items("train") if item["gold"][0] == 3), 64)
    objective, lr = (IQLearn(), 1e-3) if arm == "method" else (NLL(), 3e-4)
    tuned = train(start, objective, sft_rows(start, (record(world.name, item) for item in best)), steps=scale(60), seed=seed, lr=lr)
    asked = [item["prompt"] for item in world.items("test", scale(40))]
    found = sample(tuned, [prompt_ids(tuned, prompt) for prompt in asked], n=SAMPLES, temperature=1.0, max_new_tokens=40, seed=seed)
    texts = [[episode.text.strip() for episode in episodes] for episodes in found]
    good = [[text for text in some if world.reward(prompt, text) == 3] for prompt, some in zip(asked, texts, strict=True)]
    return {
        "different best replies": mean([len(set(some)) / SAMPLES for some in good]),
        "best replies": mean([len(some) / SAMPLES for some in good]),
        "different replies": mean([len(set(some)) / SAMPLES for some in texts]),
    }
