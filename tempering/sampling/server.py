"""Sampling from any server that speaks OpenAI's completions or chat completions: `temper serve`, vLLM, llama.cpp, hosted models.

One request per sample, many at once. Each carries a seed made of the call's seed, the prompt's key and the sample's number, so that an answer does
not depend on which others were asked for, and one that is missing can be asked for alone. `wire` says how requests are repeated, `answers` how
answers are kept.

What an episode holds depends on the server. Text always. Log-probs where it offers them: they are as the server defines them (OpenAI's are those
before temperature and top-p). Token ids only where it gives them (`token_ids=True`: `temper serve`, vLLM), because a text can be made of tokens in
many ways and a guess would train on tokens that were never sampled.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeVar

import httpx2

from tempering.errors import UserError
from tempering.sampling.answers import AnswerCache
from tempering.sampling.types import Prompt
from tempering.sampling.wire import Clock, GaveUp, Json, Patience, Trouble, ask, post_json, post_stream
from tempering.types import Episode, Message

T = TypeVar("T")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Question:
    """One sample of one prompt."""

    prompt: int
    sample: int
    prompt_ids: tuple[int, ...]
    route: str
    body: Mapping[str, Any]


class ServerSampler:
    """A model behind an OpenAI-compatible server, as a `Sampler`.

    Args:
        url: the base address that OpenAI's clients take, for example "http://127.0.0.1:8000/v1".
        model: the server's name of the model.
        key: the API key; None takes the environment variable `key_env`, if it is set. It is sent, and put nowhere else.
        concurrency: requests at once.
        tries, timeout: per request; `timeout` in seconds for one try (with `stream`, the longest silence).
        deadline: seconds for a whole call of `sample`; None for no end.
        logprobs: ask for log-probs.
        token_ids: ask for token ids, which implies log-probs (a field of vLLM's that `temper serve` knows too).
        stream: receive answers piece by piece, for long answers through a proxy that cuts silent connections.
        cache: keep answers in the store and look there first.
    Raises:
        UserError: a URL or key that cannot be used, a number out of range.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None = None,
        *,
        key_env: str = "OPENAI_API_KEY",
        concurrency: int = 16,
        tries: int = 8,
        timeout: float = 120.0,
        deadline: float | None = None,
        logprobs: bool = True,
        token_ids: bool = False,
        stream: bool = False,
        cache: bool = True,
        clock: Clock | None = None,
    ) -> None:
        self.url, self.model = _checked_url(url), model
        self._key = key if key is not None else os.environ.get(key_env, "")
        if not (self._key.isascii() and self._key.isprintable() and self._key.strip() == self._key):
            raise UserError(f"the API key (argument key, or {key_env}) has spaces around it or characters that no header can hold; copy it again")
        if concurrency < 1 or tries < 1 or not timeout > 0 or (deadline is not None and not deadline > 0):
            raise UserError(f"{self.url}: concurrency and tries must be at least 1, timeout and deadline above 0")
        self._concurrency, self._deadline = concurrency, math.inf if deadline is None else deadline
        self._patience, self._clock = Patience(tries, timeout), clock or Clock()
        self._logprobs, self._token_ids, self._stream = logprobs or token_ids, token_ids, stream
        self._cache = AnswerCache() if cache else None

    def __repr__(self) -> str:
        return f"ServerSampler({self.url!r}, {self.model!r})"

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
        progress: Progress | None = None,
    ) -> list[list[Episode]]:
        """Continues every prompt `n` times; one list of `n` episodes per prompt, in the order of the prompts.

        May be called with or without a running event loop; it returns when all answers are there.

        Args:
            prompts: token ids and texts go to /completions, messages to /chat/completions.
            top_k: no field of OpenAI's; sent only if it is not 0.
            keys: name the noise of each prompt (default: its position).
            progress: called as (answers there, all answers).
        Raises:
            UserError: an option or prompt that makes no sense, or a request that got no answer: names the server, the status and the last cause.
        """
        coming = self.sample_async(
            prompts,
            n=n,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            stop=stop,
            seed=seed,
            keys=keys,
            progress=progress,
        )
        return _finished(coming)

    async def sample_async(
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
        progress: Progress | None = None,
    ) -> list[list[Episode]]:
        """`sample` for callers that are asynchronous themselves."""
        if n < 1 or max_new_tokens < 1 or not 0 <= temperature < math.inf or not 0 < top_p <= 1 or top_k < 0:
            raise UserError("sampling needs n and max_new_tokens of at least 1, temperature and top_k of at least 0, top_p above 0 and at most 1")
        if keys is not None and len(keys) != len(prompts):
            raise UserError(f"{len(keys)} keys for {len(prompts)} prompts: give one key per prompt")
        shared: dict[str, Any] = {"model": self.model, "max_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
        shared |= {"top_k": top_k} if top_k else {}
        shared |= {"stop": [stop] if isinstance(stop, str) else list(stop)} if stop else {}
        shared |= {"return_tokens_as_token_ids": True} if self._token_ids else {}
        questions = []
        for i, prompt in enumerate(prompts):
            ids, route, given = _asked(prompt, i, self._logprobs)
            for k in range(n):
                # A greedy answer needs no seed, and without one it is the same question wherever the prompt stands.
                drawn = {"seed": derived_seed(seed, i if keys is None else keys[i], k)} if temperature > 0 else {}
                questions.append(_Question(i, k, ids, route, {**shared, **given, **drawn}))
        episodes = await self._all(questions, progress)
        return [episodes[i * n : (i + 1) * n] for i in range(len(prompts))]

    async def _all(self, questions: list[_Question], progress: Progress | None) -> list[Episode]:
        found: dict[int, Episode] = {}
        ends = self._clock.now() + self._deadline
        waiting = iter(enumerate(questions))

        async def work(client: httpx2.AsyncClient, waiting: Iterator[tuple[int, _Question]]) -> None:
            for at, question in waiting:
                found[at] = await self._episode(client, question, ends)
                if progress is not None:
                    progress(len(found), len(questions))

        headers = {"authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx2.Limits(max_connections=self._concurrency)
        # Time is kept by `wire`.
        async with httpx2.AsyncClient(headers=headers, limits=limits, timeout=None) as client:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self._concurrency, len(questions))):
                        group.create_task(work(client, waiting))
            except BaseExceptionGroup as several:
                # The others were cancelled because of the first.
                raise several.exceptions[0] from None
        return [found[at] for at in range(len(questions))]

    async def _episode(self, client: httpx2.AsyncClient, question: _Question, ends: float) -> Episode:
        # Whether an answer comes in pieces is no part of what is asked.
        asked = {"route": question.route, "sample": question.sample, **question.body}
        answer = self._cache.get(asked) if self._cache is not None else None
        if answer is None:
            answer = await self._answer(client, question, ends)
            if self._cache is not None:
                self._cache.put(asked, answer)
        return Episode(question.prompt_ids, tuple(answer["ids"]), tuple(answer["logps"]), answer["text"], answer["finished"])

    async def _answer(self, client: httpx2.AsyncClient, question: _Question, ends: float) -> dict[str, Any]:
        address = f"{self.url}/{question.route}"

        async def post(seconds: float) -> dict[str, Any]:
            if self._stream:
                chunks = await post_stream(client, address, question.body, seconds, self._clock)
            else:
                chunks = [await post_json(client, address, question.body, seconds, self._clock)]
            return self._read(chunks)

        try:
            return await ask(post, self._patience, self._clock, ends=ends)
        except GaveUp as error:
            said = str(error).replace(self._key, "[key]") if self._key else str(error)
            kept = "; answers that came are kept, the same call goes on from them" if self._cache is not None else ""
            raise UserError(f"{address}: no answer for prompt {question.prompt}, sample {question.sample}: {said[:500]}{kept}") from None

    def _read(self, chunks: Sequence[Json]) -> dict[str, Any]:
        """What an answer, whole or in chunks, says: its text, ids, log-probs, and whether it ended by itself."""
        text, tokens, logps, reason = "", [], [], None
        try:
            for choice in (choice for chunk in chunks for choice in chunk["choices"]):
                said = choice.get("message") or choice.get("delta") or choice
                text += said.get("content", said.get("text")) or ""
                reason = choice.get("finish_reason") or reason
                listed = choice.get("logprobs") or {}
                marks = listed.get("content") or list(zip(listed.get("tokens") or (), listed.get("token_logprobs") or (), strict=True))
                pairs = [(mark["token"], mark["logprob"]) if isinstance(mark, dict) else mark for mark in marks]
                tokens += [str(token) for token, _ in pairs]
                logps += [float(logp) for _, logp in pairs]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Trouble("the answer has not the shape of a completion") from None
        if not isinstance(reason, str) or not isinstance(text, str):
            raise Trouble("the answer has no choice that is finished")
        ids: list[int] = []
        if self._token_ids:
            named = [token.removeprefix("token_id:") for token in tokens]
            if not named or not all(name.isdecimal() for name in named):
                raise Trouble("the server gives no token ids: it does not know return_tokens_as_token_ids; leave token_ids off", final=True)
            ids = [int(name) for name in named]
        return {"text": text, "ids": ids, "logps": logps, "finished": reason == "stop"}


def _asked(prompt: Prompt, i: int, logprobs: bool) -> tuple[tuple[int, ...], str, dict[str, Any]]:
    """(prompt ids where they are known, route, fields) of a prompt."""
    if isinstance(prompt, str) and prompt:
        return (), "completions", {"prompt": prompt, **({"logprobs": 1} if logprobs else {})}
    if len(prompt) and all(isinstance(p, Integral) for p in prompt):
        ids = tuple(int(p) for p in prompt if isinstance(p, Integral))
        return ids, "completions", {"prompt": list(ids), **({"logprobs": 1} if logprobs else {})}
    messages = [m for m in prompt if isinstance(m, Message)]
    if not messages or len(messages) != len(prompt) or any(m.role == "text" for m in messages):
        raise UserError(f"prompt {i}: expected a text, token ids or messages with the roles of a chat, at least one")
    return (), "chat/completions", {"messages": [_turn(m) for m in messages], **({"logprobs": True} if logprobs else {})}


def _turn(message: Message) -> dict[str, Any]:
    calls = {"tool_calls": [dict(call) for call in message.tool_calls]} if message.tool_calls else {}
    return {"role": message.role, "content": message.content, **({"name": message.name} if message.name else {}), **calls}


def derived_seed(seed: int, key: int, sample: int) -> int:
    """What names the noise of one sample, as 31 bits, which every server takes."""
    return int.from_bytes(hashlib.sha256(f"{seed} {key} {sample}".encode()).digest()[:4], "big") >> 1


def _checked_url(url: str) -> str:
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, TypeError):
        raise UserError("the server's address is no URL; give one like http://127.0.0.1:8000/v1") from None
    if parsed.userinfo:
        raise UserError(f"the server's address on {parsed.host} holds a name or password; pass the key as key=")
    if parsed.scheme not in ("http", "https") or not parsed.host or (parsed.port or 0) > 65535 or parsed.query or parsed.fragment:
        raise UserError(f"{url}: expected the address that OpenAI's clients take as base URL, like http://127.0.0.1:8000/v1")
    return url.rstrip("/")


def _finished(coming: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, on a thread of its own where this one's loop is running already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coming)
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, coming).result()
