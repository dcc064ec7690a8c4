"""Questions with a true answer, other words for it and wrong answers, and how likely a model finds each: what the probes of TOFU share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from tempering.errors import UserError
from tempering.items import Item, answer_ids, ending, prompt_ids
from tempering.types import Policy

Prompt = str | tuple[tuple[str, str], ...]
"""The user's words, or (role, content) of each message; one ("text", ...) where no chat template is wanted."""


class AnswersItem(Item):
    """A question and answers to it."""

    prompt: Prompt
    answer: str
    """The true answer, as it was taught."""
    paraphrase: str = ""
    """The same in other words, which were not taught; where there is none the answer itself stands for it."""
    wrong: tuple[str, ...] = ()
    """Answers of the same form that are false."""


def shown(prompt: Prompt) -> str:
    """A prompt as one text."""
    return prompt if isinstance(prompt, str) else "\n".join(content for _, content in prompt)


def asked_ids(policy: Policy, prompt: Prompt, chat: bool | None) -> tuple[int, ...]:
    """A prompt as token ids."""
    return prompt_ids(policy, prompt if isinstance(prompt, str) else [{"role": role, "content": content} for role, content in prompt], chat=chat)


def said_ids(policy: Policy, prompt: Prompt, text: str, chat: bool | None, *, ended: bool) -> tuple[int, ...]:
    """An answer as token ids. After a plain text it begins with a space and does not end; elsewhere, with `ended`, its end of turn belongs to it.

    Raises:
        UserError: the answer has no tokens.
    """
    goes_on = not isinstance(prompt, str) and prompt[-1][0] == "text"
    plain = goes_on or not (getattr(policy.tokenizer, "chat_template", None) is not None if chat is None else chat)
    ids = answer_ids(policy, f" {text}" if plain else text)
    if not ids:
        raise UserError(f"the answer {text!r} to {shown(prompt)[-60:]!r} has no tokens: give it some text")
    return ids if goes_on or not ended else (*ids, *ending(policy, chat=chat))


def log_likelihoods(
    policy: Policy, items: Sequence[AnswersItem], texts: Iterable[Sequence[str]], chat: bool | None, *, ended: bool
) -> list[list[tuple[float, int]]]:
    """For each item and each of its texts: (log-probability, tokens)."""
    from tempering.measure import logps_of

    texts = list(texts)
    pairs = []
    for item, answers in zip(items, texts, strict=True):
        prompt = asked_ids(policy, item.prompt, chat)
        pairs += [(prompt, said_ids(policy, item.prompt, text, chat, ended=ended)) for text in answers]
    found = iter(logps_of(policy, pairs))
    return [[(float(logp.double().sum()), len(logp)) for _, logp in zip(answers, found, strict=False)] for answers in texts]


def exp(x: float) -> float:
    """e^x, the largest number of its size for what would overflow."""
    return math.exp(min(x, 700.0))
