"""What is asked of a sampler and what comes back; shared by all backends, without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from tempering.errors import UserError
from tempering.types import Episode, Message

Prompt = Sequence[int] | str | tuple[Message, ...]
"""Token ids, text, or a conversation; each backend says which it takes."""

Top = tuple[tuple[int, float], ...]
"""The likeliest tokens of a position with their log-probs, likeliest first."""


@dataclass(frozen=True)
class Request:
    """One continuation to sample.

    `seed`, `key`, `sample` and the position name the noise, so that tokens do not depend on the batch around them. Whoever asks for several samples
    of a prompt numbers them by `sample`; whoever asks about several prompts numbers those by `key`.
    """

    prompt_ids: tuple[int, ...]
    max_new_tokens: int = 64
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus mass kept; 1 keeps all."""
    top_k: int = 0
    """0 keeps all."""
    stop: tuple[str, ...] = ()
    """Strings that end the continuation when they appear in its text."""
    seed: int = 0
    key: int = 0
    sample: int = 0
    top_logps: int = 0
    """How many alternatives to report for each position."""
    echo: bool = False
    """Also report the log-probs of the prompt's own tokens."""
    begun: int = 0
    """How many of the prompt's last tokens were sampled for this very continuation before: the noise goes on behind them."""

    def check(self) -> None:
        """Raises `UserError` for an option out of range."""
        rules: dict[str, tuple[bool, str]] = {
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (0 <= self.temperature < float("inf"), "0 (greedy) or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (self.top_k >= 0, "0 (off) or more"),
            "seed": (self.seed >= 0, "0 or more"),
            "key": (self.key >= 0, "0 or more"),
            "sample": (self.sample >= 0, "0 or more"),
            "top_logps": (self.top_logps >= 0, "0 (off) or more"),
            "begun": (self.begun >= 0, "0 or more"),
            "stop": (all(self.stop), "strings that are not empty"),
        }
        for name, (holds, wanted) in rules.items():
            if not holds:
                raise UserError(f"sampling option {name}={getattr(self, name)!r}: must be {wanted}")


def check_prompt(prompt: Sequence[int], max_new_tokens: int, limit: int | None, vocabulary: int, name: str = "the prompt") -> None:
    """Raises `UserError` for a prompt that is empty, too long for the model's positions, or has ids outside of the vocabulary."""
    if len(prompt) == 0:
        raise UserError(f"{name} has no tokens: give at least one, for example the tokenizer's bos token")
    if limit is not None and len(prompt) + max_new_tokens > limit:
        raise UserError(
            f"{name} has {len(prompt)} tokens and {max_new_tokens} new ones are asked for, the model has {limit} positions: "
            "shorten the prompt or lower max_new_tokens"
        )
    if min(prompt) < 0 or max(prompt) >= vocabulary:
        raise UserError(f"{name} has token id {min(prompt) if min(prompt) < 0 else max(prompt)}, the model knows 0 to {vocabulary - 1}")


@dataclass(frozen=True)
class Token:
    """What one step gave one request."""

    ticket: int
    id: int
    logp: float
    """Under the behaviour distribution (after the decode chain, temperature, top-k and top-p), natural log; greedy: at temperature 1."""
    top: Top = ()
    """The likeliest tokens under the same distribution, as many as the request's `top_logps`."""
    finished: Literal["", "stop", "length"] = ""
    """ "stop": this token is a stop token or completes a stop string. "length": it is the last of the budget."""


@dataclass(frozen=True)
class PromptLogps:
    """Log-probs of a prompt's own tokens at temperature 1, unfiltered; None (and no alternatives) for the first, which nothing predicts."""

    logps: tuple[float | None, ...]
    top: tuple[Top, ...]


class Sampler(Protocol):
    """One interface over local models, vLLM and OpenAI-compatible servers."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int = 1,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        stop: Sequence[str] = (),
        seed: int = 0,
        keys: Sequence[int] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Episode]]:
        """Continues every prompt `n` times; one list of `n` episodes per prompt, in the order of the prompts."""
        ...
