"""Whoever is paid for searching first, and for answers then, answers more than whoever is paid for answers from the beginning.

Song et al. 2025 (R1-Searcher, arXiv 2503.05592) train in two stages: the first pays searching and the form, so that the second, which pays the answer
alone, finds searches to learn from. Here builtin:tiny was shown questions about what lies on a shelf: one in five times it looks the shelf up, and
what it says then is mostly not what it found; else it names one of five things at once. So searching is rare and hardly pays as long as what is
found is not read. What lies where differs from the demonstrations, and the shelves of the test are none of those that are learned from. Both arms
take as many steps of 6 questions with 8 conversations, by the recipe's loss and credit; the baseline's are all of the second stage. Scored is the
share of right answers, greedy; beside it how often it searches. On seed 100, which is none of the seeds that count, a
first look (eight things) had the method search always and be right nowhere; a further call counted as a well-formed answer then. As it is here it was
not tried before its five seeds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

from tempering.methods.credits.returns import Returns
from tempering.methods.environments.search import Search
from tempering.methods.objectives.grpo import GRPO
from tempering.methods.objectives.nll import NLL
from tempering.methods.probes.episode_reward import EpisodeReward
from tempering.methods.rewards.answer_f1 import AnswerF1
from tempering.methods.rewards.exact_answer import ExactAnswer
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import TRAINING, sft_rows, tiny, train
from tempering.proof.small import start as kept
from tempering.recipes.r1_searcher import searching
from tempering.replications._reinforced import CONSTANT
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.stream import Conversations
from tempering.types import Message, Policy, Record, Response
from tempering.worlds.base import rng

CLAIM = Claim(
    method="r1_searcher",
    catalogue=("S062",),
    title="R1-Searcher's two stages against its second alone",
    claim="With a first stage that pays searching, more held-out questions are answered right than with as many steps that pay answers alone.",
    baseline="the second stage alone, for as many steps",
    metric="accuracy",
    smallest_effect=0.1,
)
THINGS = ("lamp", "coin", "rope", "book", "glove")
WORDINGS = ("What lies on shelf {}?", "Tell me what is on shelf {}.", "Shelf {} holds what?")
SHELVES, STEPS, RATE = range(10, 100), 24, 3e-4
SEARCHED, READ = 0.2, 0.2
"""How many demonstrations search, and in how many of these the answer is what was found."""


class Shelves(Search):
    """What lies on a shelf."""

    seed: int = 0
    """Of what lies where."""
    top: int = 1
    searches: int = 1
    system: str = ""
    reward: Any = AnswerF1()

    def lies(self, shelf: int) -> str:
        """What is on it."""
        return rng("shelves", self.seed, shelf).choice(THINGS)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """One passage a shelf."""
        return tuple(f"Shelf {shelf}: {self.lies(shelf)}" for shelf in SHELVES)

    def tasks(self, split: Literal["train", "test"], n: int | None = None) -> Sequence[Record]:
        """Every wording of every shelf; those that end in 3 or 7 are held out."""
        shelves = [shelf for shelf in SHELVES if (shelf % 10 in (3, 7)) == (split == "test")]
        return [_asked(wording, shelf, self.lies(shelf)) for shelf in shelves for wording in WORDINGS][:n]


def _asked(wording: str, shelf: int, *answers: str, said: tuple[Message, ...] = ()) -> Record:
    ask = Message("user", wording.format(shelf))
    return Record((ask, *said), tuple(Response((Message("assistant", one),)) for one in answers), id=ask.content, source=ask.content)


def demonstrations(count: int) -> list[Record]:
    """Questions and answers, `SEARCHED` of them with a search before; each turn of the policy is a record."""
    made = list[Record]()
    for number in range(count):
        source = rng("shelf demonstrations", number)
        wording, shelf, there, guess = source.choice(WORDINGS), source.choice(SHELVES), source.choice(THINGS), source.choice(THINGS)
        if source.random() >= SEARCHED:
            made.append(_asked(wording, shelf, guess))
            continue
        call = json.dumps({"name": "search", "arguments": {"query": f"shelf {shelf}"}})
        call = f"<tool_call>{call}</tool_call>"
        made.append(_asked(wording, shelf, call))
        said = Message("assistant", call), Message("tool", f"Shelf {shelf}: {there}", name="search")
        made.append(_asked(wording, shelf, there if source.random() < READ else guess, said=said))
    return made


def begun(scale: Scale) -> Policy:
    """builtin:tiny after the demonstrations; the same for all seeds."""

    def make() -> Policy:
        base = tiny()
        return train(base, NLL(), sft_rows(base, demonstrations(2000)), steps=scale(200), seed=0, lr=2e-3)

    return kept({"claim": "r1_searcher", "things": THINGS, "searched": SEARCHED, "read": READ, "steps": scale(200)}, make)


def acted(policy: Policy, env: Search, seed: int, steps: int) -> Policy:
    """The policy after so many steps in an environment."""
    training = TRAINING.model_copy(update={"batch_size": 6})
    tasks = env.tasks("train")
    stream = Conversations(policy.tokenizer, env, tasks, Returns(whiten=True), Rollouts(), training=training, max_new_tokens=64, seed=seed)
    return train(policy, GRPO(), stream, steps=steps, seed=seed, lr=RATE, schedule=CONSTANT)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Right answers, and searches."""
    policy, env = begun(scale), Shelves(seed=seed)
    if arm == "method":
        policy = acted(policy, searching(env), seed + 100, scale(STEPS // 2))
    policy = acted(policy, env, seed, scale(STEPS if arm == "baseline" else STEPS // 2))
    plain = env.model_copy(update={"reward": ExactAnswer(rule="text")})
    found = EpisodeReward(environment=plain, n=scale(54), max_new_tokens=64)(policy)
    return {"accuracy": sum(item.score for item in found.items) / len(found.items), "searches": found.summary["turns"] - 1}
