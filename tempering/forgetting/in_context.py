"""Turns that stand in front of every conversation, written into the chat template, so that any engine that reads the template serves them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any, Literal

from tempering.data import prompt_ids
from tempering.data.forgetting import REFUSALS
from tempering.errors import UserError
from tempering.forgetting.targets import Secret
from tempering.methods.probes.exact_answer import normalised
from tempering.types import Message

Turn = tuple[str, str]
"""(role, content)."""


def turns(gone: Sequence[Secret], shown: Sequence[Secret], instead: Literal["other", "refusal"], seed: int) -> list[Turn]:
    """Questions that are to be forgotten with wrong answers, then others with right ones.

    Args:
        instead: what stands in the place of an answer: that of another forget question, or a refusal.
        seed: of which other.

    Raises:
        UserError: all answers are the same, so that none is another's.
    """
    drawn = random.Random(seed)
    found: list[Turn] = []
    for secret in gone:
        others = sorted({other.answer for other in gone if normalised(other.answer) != normalised(secret.answer)})
        if instead == "other" and not others:
            raise UserError("the forget rows that are shown all have the same answer, so there is no other to give; show more, or take refusals")
        found += [*_asked(secret), ("assistant", drawn.choice(others if instead == "other" else REFUSALS))]
    for secret in shown:
        found += [*_asked(secret), ("assistant", secret.answer)]
    return found


def _asked(secret: Secret) -> list[Turn]:
    return [turn for turn in secret.prompt if turn[0] != "system"]


def showing(template: str, first: Sequence[Turn]) -> str:
    """The chat template with these turns in front of every conversation, behind its system message if it begins with one.

    What the turns say is a constant of the template and never read as Jinja.
    """
    if not first:
        return template
    # A JSON string is a Jinja string, but for what lies outside ASCII, which Jinja reads as it stands.
    said = json.dumps([{"role": role, "content": content} for role, content in first], ensure_ascii=False)
    return (
        "{%- if messages and messages[0]['role'] == 'system' -%}{%- set messages = messages[:1] + SHOWN + messages[1:] -%}"
        "{%- else -%}{%- set messages = SHOWN + messages -%}{%- endif -%}"
    ).replace("SHOWN", said) + template


def length(tokenizer: Any) -> int:
    """Tokens of the shortest question under this tokenizer's template."""
    return len(prompt_ids(tokenizer, [Message("user", "?")]))
