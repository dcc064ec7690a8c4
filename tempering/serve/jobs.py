"""From a checked body to rows to decode: prompts become token ids, and every choice a `Request`.

Choice k of prompt i is row `i * n + k`. Its noise is named by the request's seed, i and k, so that the same request gives the same answer whatever
else is decoded at the time; a request without a seed draws one.
"""

from __future__ import annotations

import copy
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tempering.errors import UserError
from tempering.sampling.types import Request
from tempering.serve.errors import ApiError
from tempering.serve.fields import ChatBody, CompletionBody
from tempering.types import Message, Policy


@dataclass(frozen=True)
class Served:
    """The model as the routes know it."""

    name: str
    tokenizer: Any
    """The routes' own: a fast tokenizer must not be used by two threads at once, and the decoder's thread has the policy's."""
    positions: int | None
    """How many the model has; None where its config does not say."""
    ends: frozenset[int]
    """Token ids that end an answer."""

    @classmethod
    def of(cls, policy: Policy, name: str) -> Served:
        """What there is to know about a policy."""
        from tempering.sample import max_positions, models_of, stop_ids

        return cls(name, copy.deepcopy(policy.tokenizer), max_positions(models_of(policy)), stop_ids(policy))


@dataclass(frozen=True)
class Job:
    """One HTTP request's rows, and how its answer is to look."""

    chat: bool
    rows: tuple[Request, ...]
    n: int
    echoed: tuple[str, ...]
    """The text to put before each prompt's choices; empty without echo."""
    logprobs: bool
    prompt_only: bool
    """Asks for no new token; the decoder is asked for one all the same, because it scores a prompt on the way to it."""
    as_ids: bool
    stream: bool
    usage_at_end: bool

    @property
    def prompt_tokens(self) -> int:
        return sum(len(row.prompt_ids) for row in self.rows[:: self.n])


def completion_job(body: CompletionBody, served: Served, most_tokens: int) -> Job:
    """The job of a completions body.

    Raises:
        ApiError: 400, a prompt without tokens or too long, more tokens than allowed, a combination that means nothing.
    """
    if body.max_tokens == 0 and not body.echo:
        raise ApiError(400, "max_tokens: 0 without echo asks for nothing; set echo, or ask for at least 1", "max_tokens")
    prompts = [_ids(prompt, served.tokenizer, i) for i, prompt in enumerate(body.prompt)]
    echoed = tuple(p if isinstance(p, str) else served.tokenizer.decode(p) for p in body.prompt) if body.echo else ()
    top = None if body.logprobs is None else body.logprobs
    rows = _rows(body, prompts, body.max_tokens, served, most_tokens, top or 0, echo=body.echo and top is not None)
    return Job(False, rows, body.n, echoed, top is not None, body.max_tokens == 0, *_shape(body))


def chat_job(body: ChatBody, served: Served, most_tokens: int) -> Job:
    """The job of a chat body.

    Raises:
        ApiError: 400, the model has no chat template or its template refuses the messages, or as for completions.
    """
    from tempering.data.rendering import has_template, prompt_ids

    if not has_template(served.tokenizer):
        raise ApiError(400, f"{served.name} has no chat template; use /v1/completions", "messages")
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs to be true", "top_logprobs")
    messages = [Message("system" if m.role == "developer" else m.role, m.text, name=m.name) for m in body.messages]
    try:
        ids = tuple(prompt_ids(served.tokenizer, messages))
    except UserError as error:
        raise ApiError(400, f"messages: {error}", "messages") from None
    asked = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    room = most_tokens if served.positions is None else min(most_tokens, served.positions - len(ids))
    rows = _rows(body, [ids], max(1, room) if asked is None else asked, served, most_tokens, body.top_logprobs, echo=False)
    return Job(True, rows, body.n, (), body.logprobs, False, *_shape(body))


def _shape(body: CompletionBody | ChatBody) -> tuple[bool, bool, bool]:
    if body.stream_options.include_usage and not body.stream:
        raise ApiError(400, "stream_options needs stream to be true", "stream_options")
    return body.return_tokens_as_token_ids, body.stream, body.stream_options.include_usage


def _ids(prompt: str | tuple[int, ...], tokenizer: Any, i: int) -> tuple[int, ...]:
    ids = tuple(tokenizer(prompt)["input_ids"]) if isinstance(prompt, str) else prompt
    if not ids:
        raise ApiError(400, f"prompt {i} has no tokens; give it some text", "prompt")
    return ids


def _rows(
    body: CompletionBody | ChatBody,
    prompts: Sequence[tuple[int, ...]],
    max_tokens: int,
    served: Served,
    most_tokens: int,
    top: int,
    *,
    echo: bool,
) -> tuple[Request, ...]:
    if max_tokens > most_tokens:
        raise ApiError(400, f"max_tokens is {max_tokens}, this server gives at most {most_tokens}", "max_tokens")
    new = max(1, max_tokens)
    for i, ids in enumerate(prompts):
        if served.positions is not None and len(ids) + new > served.positions:
            raise ApiError(
                400,
                f"prompt {i} has {len(ids)} tokens and {new} more are asked for, the model has {served.positions} positions",
                "messages" if isinstance(body, ChatBody) else "prompt",
                "context_length_exceeded",
            )
    base = Request(
        (),
        new,
        body.temperature,
        body.top_p,
        max(0, body.top_k),
        body.stop,
        (secrets.randbits(63) if body.seed is None else body.seed) % 2**63,
        top_logps=top,
        echo=echo,
    )
    return tuple(replace(base, prompt_ids=ids, key=i, sample=k) for i, ids in enumerate(prompts) for k in range(body.n))
