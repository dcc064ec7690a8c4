"""Paid for several metrics of a rewriting, a policy writes formally about the same things; paid for one of them, formally about anything.

Diao et al. 2023 ("Doolittle", EMNLP) fine-tune models that make academic writing formal by PPO, paid for a weighted sum of automatic metrics: a
classifier's score, fluency under a language model, likeness to the source. Here sentences are made of a who, a thing, and three places where an
informal word stands or a formal one ("i gotta grab awesome bread", "i must obtain excellent bread"). builtin:tiny begins with 120
steps on examples of which a third each are the right rewriting, the sentence as it was, and a formal sentence about other things, as text that is not
parallel has them. The classifier is a regression on formal and informal sentences, the language model builtin:tiny after formal ones; both are
trained for each seed. Both arms take 25 steps of RLOO (8 sentences, 8 samples each, 0.02 for a nat of log-ratio to the start): the baseline is paid
the classifier's score alone, the method a sum with fluency as released, in which likeness counts three times, since a right rewriting has a third of
its words in common with its source and another text none. Scored on sampled rewritings of held-out sentences by the world's truth: the mean of
"formal" (all three words are) and "kept" (who and thing are, each half); beside it F1 with the right rewriting.

Seed 9, which counts in no result, was looked at three times, which changed this: sentences had two things and likeness counted once (nothing was
kept better); the metric was "formal" times F1 with the right rewriting, and the rate 3e-4 (0.72 against 0.69). At 1e-3 the method kept who and
thing, and wrote one formal word of each place for all informal ones: likeness by words does not see that they mean different things. The paper's
BARTScore is left out, and RLOO stands for PPO.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from tempering.items import mean
from tempering.methods.credits.leave_one_out import LeaveOneOut
from tempering.methods.environments.records import Records
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.reward_regression import RewardRegression
from tempering.methods.objectives.rloo import RLOO
from tempering.methods.rewards.answer_f1 import AnswerF1
from tempering.methods.rewards.judged import Judged
from tempering.methods.rewards.weighted import Weighted
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import TRAINING, sft_rows, tiny, train
from tempering.proof.small import start as kept
from tempering.replications._reinforced import CONSTANT
from tempering.rollouts.play import How, play
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.stream import Conversations
from tempering.types import Message, Policy, Record, Response, Role
from tempering.worlds.base import rng, words

CLAIM = Claim(
    method="weighted",
    catalogue=("S242",),
    title="Reinforcement by several metrics of a rewriting against reinforcement by a classifier alone",
    claim="Paid for a classifier, likeness and fluency together, rewritings are as formal as paid for the classifier alone, and keep more.",
    baseline="the same reinforcement, paid for the classifier's score alone",
    metric="mean of formal and kept",
    smallest_effect=0.1,
)
WHO = ("i", "we", "they", "you")
THINGS = words("bread tea roses bicycles chess guitars kites soup gardens tents pianos letters candles fences salad boots")
SLANG = ({"gotta": "must", "wanna": "wish to", "gonna": "will"}, {"grab": "obtain", "fix up": "repair"}, {"awesome": "excellent", "crappy": "poor"})
ASK, TASKS, TOKENS = "Write formally: ", 400, 20


def sentence(source: random.Random) -> tuple[str, str]:
    """(informal, formal) of the same."""
    places = [source.choice(list(place.items())) for place in SLANG]
    who, what = source.choice(WHO), source.choice(THINGS)
    made = [f"{who} {may} {do} {how} {what}" for may, do, how in zip(*places, strict=True)]
    return made[0], made[1]


def formal(answer: str) -> bool:
    """Whether a formal word stands in each of the three places, and no informal one anywhere."""
    padded = f" {answer} "
    return all(sum(f" {word} " in padded for word in place.values()) == 1 and not any(f" {word} " in padded for word in place) for place in SLANG)


def kept_of(answer: str, right: str) -> float:
    """Half each for the who and the thing of the right rewriting, its first and last word."""
    said, wanted = answer.split() or [""], right.split()
    return ((said[0] == wanted[0]) + (said[-1] == wanted[-1])) / 2


def sentences(split: str, count: int) -> Iterator[tuple[str, str]]:
    """Different ones; a fifth of all, by their letters, are for the test."""
    source, seen = rng("morl", split), set[str]()
    while len(seen) < count:
        informal, right = sentence(source)
        if informal not in seen and (sum(map(ord, informal)) % 5 == 0) == (split == "test"):
            seen.add(informal)
            yield informal, right


def told(prompt: str, answer: str) -> Record:
    """A record of it."""
    return Record((Message("user", ASK + prompt),), (Response((Message("assistant", answer),)),), id=prompt, source=prompt)


class Rewriting(Records):
    """Sentences to rewrite."""

    reward: Any

    def tasks(self, split: Literal["train", "test"], n: int | None = None) -> Sequence[Record]:
        """Their right rewriting is the response."""
        return [told(*pair) for pair in sentences(split, n or TASKS)]


def begun(seed: int, scale: Scale) -> Policy:
    """builtin:tiny after examples of which a third are right rewritings."""

    def make() -> Policy:
        source, base = rng("morl examples", seed), tiny()
        records = [told(one, source.choice((right, one, sentence(source)[1]))) for one, right in sentences("train", TASKS)]
        return train(base, NLL(), sft_rows(base, records), steps=scale(120), seed=seed, lr=1e-3)

    return kept({"claim": "morl", "seed": seed, "steps": scale(120)}, make)


@functools.lru_cache(maxsize=1)
def metrics(seed: int, quick: bool) -> tuple[str, str]:
    """Folders of a classifier, which gives about 1 for formal sentences and 0 for informal ones, and of a model of formal sentences."""
    from dataclasses import replace

    from tempering.models import with_outputs

    scale, source, base = Scale(quick), rng("morl metrics", seed), tiny()
    drawn = [(asked, sentence(source)[side]) for asked, _ in sentences("train", TASKS) for side in (0, 1)]

    def classifier() -> Policy:
        rows = sft_rows(base, [told(*pair) for pair in drawn])
        labelled = [{"train": tuple(replace(s, extras={"score": float(i % 2)}) for s in row["train"])} for i, row in enumerate(rows)]
        return train(with_outputs(base, 1), RewardRegression(), labelled, steps=scale(40), seed=seed, lr=1e-3)

    def reader() -> Policy:
        texts = [Record((), (Response((Message("text", text),)),), id=text, source=text) for _, text in drawn[1::2]]
        return train(base, NLL(), sft_rows(base, texts), steps=scale(25), seed=seed, lr=1e-3)

    inputs = {"claim": "morl metrics", "seed": seed, "quick": quick}
    return kept({**inputs, "what": "classifier"}, classifier).source, kept({**inputs, "what": "reader"}, reader).source


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Formal and the same, together and apart; and before."""
    start, (classifier, reader) = begun(seed, scale), metrics(seed, scale.quick)
    of = f"judged(model={classifier})"
    paid = Weighted(of=f"{of} + 3*similarity(behind=:) + fluency(model={reader})") if arm == "method" else Judged(model=classifier)
    env, training = Rewriting(reward=paid), TRAINING.model_copy(update={"batch_size": 8})
    stream = Conversations(
        start.tokenizer, env, env.tasks("train"), LeaveOneOut(), Rollouts(kl_cost=0.02), training=training, max_new_tokens=TOKENS, seed=seed
    )
    roles = {"reference": Role(start.model)}
    tuned = train(start, RLOO(), stream, steps=scale(25), seed=seed, lr=1e-3, schedule=CONSTANT, roles=roles)
    found = scores(tuned, env, seed, scale)
    return {**found, **{f"{name} before": value for name, value in scores(start, env, seed, scale).items()}}


def scores(policy: Policy, env: Rewriting, seed: int, scale: Scale) -> dict[str, float]:
    """Means over four samples of each of 50 held-out sentences."""
    groups = play(policy, env, list(enumerate(env.tasks("test", scale(50)))), 4, How(TOKENS, seed=seed))
    played = [one for group in groups for one in group]
    right = [one.task.responses[0].messages[0].content for one in played]
    found = {
        "formal": mean([formal(one.answer) for one in played]),
        "kept": mean([kept_of(one.answer, wanted) for one, wanted in zip(played, right, strict=True)]),
        "F1": mean([AnswerF1.f1(one.answer, wanted) for one, wanted in zip(played, right, strict=True)]),
    }
    return {CLAIM.metric: (found["formal"] + found["kept"]) / 2, **found}
