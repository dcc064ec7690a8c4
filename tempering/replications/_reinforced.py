"""A policy with room, for claims about reinforcement: it was shown two ways to answer a sum, one of which it cannot do.

builtin:tiny works sums of two digits out place by place and is right in five of six. After a few steps on demonstrations of which `BARE` give the
number alone, it often gives the number alone, and is mostly wrong; at other times it works the sum out. Demonstrations do not say which way
is the better one for this model; what its own answers earn does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tempering.config import Schedule
from tempering.methods.environments.arithmetic import Arithmetic
from tempering.methods.objectives.nll import NLL
from tempering.methods.probes.episode_reward import EpisodeReward
from tempering.proof.claims import Scale
from tempering.proof.small import TRAINING, score, sft_rows, tiny, train
from tempering.proof.small import start as kept
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.stream import Conversations
from tempering.rollouts.types import Credit
from tempering.types import Message, Objective, Policy, Record, Response, Role
from tempering.worlds.base import rng

SUMS = Arithmetic()
TASKS = 500
TOKENS = 40
BARE = 0.5
CONSTANT = Schedule(name="constant", warmup=0.05)


def demonstrations(seed: int, tasks: int = TASKS) -> list[Record]:
    """Sums with their worked answer, or, in `BARE` of them, with the number alone; drawn by `seed` and sum."""
    made = []
    for task in SUMS.tasks("train", tasks):
        bare = Response((Message("assistant", str(task.tags["answer"])),))
        made.append(replace(task, responses=(bare,)) if rng("bare", seed, task.id).random() < BARE else task)
    return made


def begun(seed: int, scale: Scale) -> Policy:
    """builtin:tiny after some steps on these demonstrations; 60 and 1e-3 are chosen on seed 100, for about a quarter of right answers."""

    def make() -> Policy:
        base = tiny()
        return train(base, NLL(), sft_rows(base, demonstrations(seed)), steps=scale(60), seed=seed, lr=1e-3)

    return kept({"claim": "reinforced", "seed": seed, "tasks": TASKS, "bare": BARE, "steps": scale(60)}, make)


def acted(
    start: Policy,
    objective: Objective,
    credit: Credit,
    *,
    steps: int,
    seed: int,
    lr: float,
    batch_size: int = 8,
    settings: Rollouts | None = None,
    roles: Callable[[], dict[str, Role]] = dict,
) -> Policy:
    """The policy after `steps` steps on its own answers to the sums of the demonstrations, 8 to each."""
    training = TRAINING.model_copy(update={"batch_size": batch_size})
    stream = Conversations(
        start.tokenizer, SUMS, SUMS.tasks("train", TASKS), credit, settings or Rollouts(), training=training, max_new_tokens=TOKENS, seed=seed
    )
    return train(start, objective, stream, steps=steps, seed=seed, lr=lr, schedule=CONSTANT, roles=roles())


def right(policy: Policy, scale: Scale) -> float:
    """Share of held-out sums whose likeliest answer is right."""
    return score(policy, EpisodeReward(environment=SUMS, n=scale(200), max_new_tokens=TOKENS))
