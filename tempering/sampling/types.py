"""What sampling backends share: one continuation to sample, one decoded token, and the interface that all backends offer. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from tempering.types import Episode, Message

Prompt = Sequence[int] | str | Sequence[Message]
"""Token ids, a text, or messages; each backend says which it takes."""


@dataclass(frozen=True)
class Request:
    """One continuation to sample."""

    prompt_ids: tuple[int, ...]
    max_new_tokens: int = 64
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    seed: int = 0
    key: int = 0
    """With `seed`, `sample` and the position it names the noise: tokens do not depend on the batch around them."""
    sample: int = 0
    top_logps: int = 0
    """How many alternatives to report per position."""
    echo: bool = False
    """Also report log-probs of the prompt's own tokens."""


@dataclass(frozen=True)
class Token:
    """What one decoding step gave one request."""

    ticket: int
    id: int
    logp: float
    """Under the behaviour distribution (after processors, temperature, top-k, top-p), natural log."""
    top: tuple[tuple[int, float], ...] = ()
    finished: Literal["", "stop", "length"] = ""


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
