"""Averaged with the model it came from, an aligned model gets skills back; by shares that differ with depth it pays less for them than by one share.

Lin et al. 2023 (arXiv 2309.06256) see alignment cost what a model could do, plain averaging with the model before it give some back, and averaging by
learned shares of three groups of layers (HMA) lie above it. Here the model before is builtin:tiny, which knows facts about a hundred people; it is
aligned on the best replies to requests (RAFT with the world's replies), which costs facts. Both arms go back by the same share on average; the
method's shares are learned on the aligned model's own best of four answers to 64 requests, as in the paper. The score is the mean of the share of
facts told right and of the gold reward of greedy replies to held-out requests, brought to 0 to 1; both stand beside it.
"""

from __future__ import annotations

from tempering.data import prompt_ids
from tempering.making import answer, user
from tempering.methods.objectives.nll import NLL
from tempering.methods.scopes.averaged import Averaged
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import fingerprint, score, sft_rows, start, tiny, train
from tempering.sample import sample
from tempering.types import Policy, Record
from tempering.worlds.people import People
from tempering.worlds.preferences import Preferences

CLAIM = Claim(
    method="averaged",
    catalogue=("S227",),
    title="HMA against plain averaging: what an aligned model gets back and what it pays",
    claim="By learned shares of three groups of layers, going back to the model before alignment gives more facts and reward together than by one.",
    baseline="plain averaging by the same mean share",
    metric="facts and reward",
    smallest_effect=0.02,
)
MEAN = 0.4
RATE = 0.1
EPS = 1.0


def aligned(world: Preferences, seed: int, scale: Scale) -> Policy:
    """builtin:tiny after fine-tuning on replies that earn nearly all there is."""
    base = tiny()
    best = [record for record in world.records("train", 1200) if record.tags["gold"][0] > 2.9]
    rows = sft_rows(base, best)
    inputs = {"claim": "hma", "seed": seed, "rows": fingerprint(rows), "steps": scale(60), "lr": 1e-3}
    return start(inputs, lambda: train(base, NLL(), rows, steps=scale(60), seed=seed, lr=1e-3))


def best_of_four(policy: Policy, world: Preferences, seed: int, count: int) -> list[Record]:
    """The aligned model's own answers to requests, of four the one of highest reward."""
    asked = list({record.prompt[-1].content: record for record in world.records("train", 3 * count)}.items())[:count]
    prompts = [prompt_ids(policy.tokenizer, (user(text),)) for text, _ in asked]
    found = sample(policy, prompts, n=4, temperature=1.0, max_new_tokens=32, seed=seed)
    texts = [max((one.text.strip() for one in of), key=lambda reply: world.reward(text, reply)) for (text, _), of in zip(asked, found, strict=True)]
    from dataclasses import replace

    return [replace(record, responses=(answer(best),), better=()) for (_, record), best in zip(asked, texts, strict=True) if best]


def averaged(policy: Policy, seed: int, scale: Scale, rows: list[Record], mean: float, lr: float) -> tuple[Policy, list[float]]:
    scope = Averaged(base="builtin:tiny", mean=mean, eps=EPS)
    if not rows:
        import copy

        handle = scope.attach(copy.deepcopy(policy.model))
        return Policy(handle.bake(), policy.tokenizer), []
    tuned = train(policy, NLL(), sft_rows(policy, rows), steps=scale(40), seed=seed, lr=lr, scope=scope)
    shares = [float(tuned.handle.shares(i)) for i in range(3)]
    return Policy(tuned.handle.bake(), policy.tokenizer), shares


def both(policy, seed, world, scale):
    known, reward = score(policy, People(100).probe("test", scale(200))), score(policy, world.reward_probe("test", scale(50)))
    return {"facts and reward": (known + (reward + 1) / 4) / 2, "facts": known, "gold reward": reward}
