"""One question to an HTTP server, asked until it is answered: what is worth asking again, when, and when to give up.

Asked again: no connection, a connection that breaks off, no answer in time, 408, 425, 429, every 5xx, and answers that are not what was promised
(cut streams, broken JSON, a proxy's HTML page). The wait before try k is drawn from 0 to `base * 2^k` seconds, at most `cap` ("full jitter":
Brooker 2015, "Exponential Backoff And Jitter"), so that many clients do not come back at once; a server's Retry-After is the least that is waited.
Every other status is final: asking again would get the same answer.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx2

AGAIN = frozenset({408, 425, 429})
"""Statuses below 500 that may pass."""
Answer = TypeVar("Answer")
Json = Mapping[str, Any]


@dataclass(frozen=True)
class Clock:
    """Time and chance, so that tests can have their own."""

    now: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    draw: Callable[[float], float] = lambda most: random.SystemRandom().uniform(0.0, most)


@dataclass(frozen=True)
class Patience:
    """How often and how long one question is asked. Seconds."""

    tries: int = 8
    timeout: float = 120.0
    """For one try; for a stream, the longest silence in it."""
    base: float = 0.5
    cap: float = 30.0


class Trouble(Exception):
    """A try that failed. `final`: another one would fail alike."""

    def __init__(self, said: str, *, status: int | None = None, after: float = 0.0, final: bool = False) -> None:
        super().__init__(f"status {status}: {said}" if status is not None else said)
        self.after, self.final = after, final


class GaveUp(Exception):
    """No answer, and why."""


async def ask(
    post: Callable[[float], Awaitable[Answer]],
    patience: Patience,
    clock: Clock,
    *,
    ends: float = math.inf,
) -> Answer:
    """Asks until there is an answer.

    Args:
        post: one try, within the given seconds; raises Trouble.
        ends: the clock's time at which to give up.
    Raises:
        GaveUp: a final trouble, the tries are used up, or the deadline is nearer than the next try.
    """
    trouble = Trouble("there was no time to ask")
    for k in range(patience.tries):
        left = ends - clock.now()
        if left <= 0:
            raise GaveUp(f"the deadline passed after {_tries(k)}; last cause: {trouble}")
        try:
            return await post(min(patience.timeout, left))
        except Trouble as found:
            trouble = found
        if trouble.final:
            raise GaveUp(str(trouble))
        if k + 1 == patience.tries:
            break
        wait = max(trouble.after, clock.draw(min(patience.cap, patience.base * 2**k)))
        if clock.now() + wait >= ends:
            raise GaveUp(f"the deadline passes before the next of {_tries(k + 1)} made so far could be repeated; last cause: {trouble}")
        await clock.sleep(wait)
    raise GaveUp(f"gave up after {_tries(patience.tries)}; last cause: {trouble}")


def _tries(n: int) -> str:
    return f"{n} {'try' if n == 1 else 'tries'}"


async def post_json(client: httpx2.AsyncClient, url: str, body: Json, seconds: float, clock: Clock) -> Json:
    """POST; the answer's JSON object.

    Raises:
        Trouble: anything else.
    """
    try:
        async with asyncio.timeout(seconds):
            response = await client.post(url, json=body)
    except (httpx2.TimeoutException, TimeoutError):
        raise Trouble(f"no answer within {seconds:g} s") from None
    except httpx2.RequestError as error:
        raise Trouble(_broken(error)) from None
    if response.status_code != 200:
        raise _refused(response, clock)
    return _object(response.content, response.headers.get("content-type", "no content type"))


async def post_stream(client: httpx2.AsyncClient, url: str, body: Json, seconds: float, clock: Clock) -> list[Json]:
    """POST with `stream`; the chunks up to `[DONE]`, without which a stream was cut.

    Raises:
        Trouble: anything else.
    """
    chunks: list[Json] = []
    try:
        async with client.stream("POST", url, json={**body, "stream": True}, timeout=seconds) as response:
            if response.status_code != 200:
                await response.aread()
                raise _refused(response, clock)
            kind = response.headers.get("content-type", "no content type")
            if not kind.startswith("text/event-stream"):
                raise Trouble(f"the answer is no event stream but {kind}")
            async for line in _lines(response):
                if line == b"data: [DONE]":
                    return chunks
                if line.startswith(b"data:"):
                    chunks.append(_object(line[5:], kind))
    except (httpx2.TimeoutException, TimeoutError):
        raise Trouble(f"silence of {seconds:g} s") from None
    except httpx2.RequestError as error:
        raise Trouble(_broken(error)) from None
    raise Trouble("the stream was cut before its end")


async def _lines(response: httpx2.Response) -> AsyncIterator[bytes]:
    # Not `aiter_lines`, for which some characters inside of a text end a line.
    rest = b""
    async for part in response.aiter_bytes():
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r")


def _object(content: bytes, kind: str) -> Json:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        raise Trouble(f"the answer is not JSON ({kind}): {content[:80].decode(errors='replace')!r}") from None
    if not isinstance(value, dict):
        raise Trouble(f"the answer is a JSON {type(value).__name__}, not an object")
    if value.get("error"):
        raise Trouble(_message(value) or "an error without a message")
    return value


def _broken(error: httpx2.RequestError) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _refused(response: httpx2.Response, clock: Clock) -> Trouble:
    status = response.status_code
    try:
        value = json.loads(response.content)
    except (ValueError, RecursionError):
        value = None
    said = _message(value) or response.reason_phrase.lower() or "no reason given"
    # A used-up quota has the status of a rate limit, and does not pass.
    final = (status < 500 and status not in AGAIN) or "insufficient_quota" in str(value)
    return Trouble(said, status=status, after=retry_after(response.headers.get("retry-after"), clock), final=final)


def _message(value: Any) -> str:
    error = value.get("error", value.get("detail", value.get("message"))) if isinstance(value, dict) else None
    said = error.get("message") if isinstance(error, dict) else error
    return " ".join(said.split()) if isinstance(said, str) else ""


def retry_after(header: str | None, clock: Clock) -> float:
    """Seconds to wait by a Retry-After header: a number or an HTTP date; 0 for none, or one that says neither."""
    if header is None:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - clock.wall()
        except ValueError:
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
