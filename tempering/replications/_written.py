"""What claims share that learn from what a policy writes: asking it as `Making.ask` wants it, and what its words earn."""

from __future__ import annotations

from collections.abc import Sequence

from tempering.data import prompt_ids
from tempering.items import mean
from tempering.making import Ask, user
from tempering.sample import sample
from tempering.types import Message, Policy
from tempering.worlds.preferences import Preferences

TOKENS = 48


def asked(policy: Policy, seed: int) -> Ask:
    """The policy as a maker asks it."""

    def ask(prompts: Sequence[tuple[Message, ...]], n: int, temperature: float) -> list[list[str]]:
        ids = [prompt_ids(policy.tokenizer, prompt) for prompt in prompts]
        drawn = sample(policy, ids, n=n, temperature=temperature, max_new_tokens=TOKENS, seed=seed)
        return [[episode.text for episode in episodes] for episodes in drawn]

    return ask


def answers(policy: Policy, prompts: Sequence[str], n: int, seed: int, temperature: float = 1.0) -> list[list[str]]:
    """`n` sampled answers to each request."""
    return asked(policy, seed)([(user(prompt),) for prompt in prompts], n, temperature)


def earned(policy: Policy, world: Preferences, requests: int) -> float:
    """Mean gold reward of four sampled replies to each of so many held-out requests."""
    prompts = [item["prompt"] for item in world.items("test", requests)]
    replies = answers(policy, prompts, 4, seed=0)
    return mean([world.reward(prompt, reply) for prompt, of in zip(prompts, replies, strict=True) for reply in of])
