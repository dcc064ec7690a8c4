"""The routes: who may ask (key), how much (limits), and what becomes of an answer whose client left.

Every refusal is an object that OpenAI's clients understand, with the field's name where a field is at fault. Requests are logged nowhere.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tempering.errors import UserError
from tempering.serve.answers import Answer, Piece
from tempering.serve.engine import Busy, Engine, Stopped
from tempering.serve.errors import ApiError
from tempering.serve.fields import Body, ChatBody, CompletionBody, parse
from tempering.serve.jobs import Job, Served, chat_job, completion_job
from tempering.serve.text import Names

RETRY_AFTER = {"retry-after": "1"}
"""Seconds; rows end one by one, so there is room again soon."""


@dataclass(frozen=True)
class Limits:
    """How much may be asked for."""

    max_tokens: int = 4096
    """New tokens of one choice."""
    body_bytes: int = 8 * 2**20
    timeout: float = 600.0
    """Seconds from a request's first byte to its last."""


def make_app(engine: Engine, served: Served, key: str, limits: Limits, say: Callable[[str], None]) -> ASGIApp:
    """The ASGI application.

    Args:
        key: what clients send as `Authorization: Bearer KEY`.
        say: told of faults that are ours.
    """
    routes = _Routes(engine, served, limits, say)
    app = Starlette(
        routes=[
            Route("/health", routes.health),
            Route("/v1/models", routes.models),
            Route("/v1/models/{name:path}", routes.model),
            Route("/v1/completions", routes.completions, methods=["POST"]),
            Route("/v1/chat/completions", routes.chat, methods=["POST"]),
        ],
        exception_handlers={ApiError: _refusal, HTTPException: _no_route},
    )
    return _Locked(app, key)


class _Locked:
    """Asks for the key before anything else is looked at; /health is open, so that whoever watches the server needs no key."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._wanted = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/health":
            given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            if not secrets.compare_digest(given, self._wanted):
                error = ApiError(401, "the API key is missing or wrong: send `Authorization: Bearer KEY`", code="invalid_api_key")
                await _json(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _json(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body(), error.status, dict(error.headers))


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _json(error)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json(ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail.lower()}"))


class _Routes:
    def __init__(self, engine: Engine, served: Served, limits: Limits, say: Callable[[str], None]) -> None:
        self.engine, self.served, self.limits, self.say = engine, served, limits, say
        self.names = Names(served.tokenizer)
        self.created = int(time.time())

    async def health(self, request: Request) -> Response:
        """200 while there is a thread that decodes."""
        alive = self.engine.alive
        return JSONResponse({"status": "ok" if alive else "stopped", "rows": self.engine.in_flight}, 200 if alive else 503)

    async def models(self, request: Request) -> Response:
        """The one model there is."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """That model by its name."""
        self._check_model(request.path_params["name"])
        return JSONResponse(self._model())

    async def completions(self, request: Request) -> ASGIApp:
        """Continue a text."""
        return await self._asked(request, CompletionBody, completion_job)

    async def chat(self, request: Request) -> ASGIApp:
        """Answer a conversation."""
        return await self._asked(request, ChatBody, chat_job)

    async def _asked(self, request: Request, kind: type[Body], make: Callable[[Body, Served, int], Job]) -> ASGIApp:
        try:
            body = parse(await self._body(request), kind)
            self._check_model(body.model)
            return self._work(make(body, self.served, self.limits.max_tokens))
        except Exception as error:
            raise self.explained(error) from None

    def _model(self) -> dict[str, Any]:
        return {"id": self.served.name, "object": "model", "created": self.created, "owned_by": "tempering", "max_model_len": self.served.positions}

    def _check_model(self, name: str) -> None:
        if name != self.served.name:
            raise ApiError(404, f"there is no model {name!r} here, this server has {self.served.name!r}", "model", "model_not_found")

    async def _body(self, request: Request) -> Any:
        most = self.limits.body_bytes
        content = bytearray()
        try:
            async with asyncio.timeout(self.limits.timeout):
                async for chunk in request.stream():
                    content += chunk
                    if len(content) > most:
                        raise ApiError(413, f"the body is larger than {most} bytes", headers={"connection": "close"})
        except TimeoutError:
            raise ApiError(408, f"the body did not come within {self.limits.timeout:g} s", headers={"connection": "close"}) from None
        except ClientDisconnect:
            raise ApiError(400, "the client left before its request was complete") from None
        try:
            return json.loads(content, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise ApiError(400, "the body is not JSON") from None

    def _work(self, job: Job) -> _Work:
        if len(job.rows) > self.engine.capacity:
            raise ApiError(400, f"{len(job.rows)} choices are asked for, this server takes at most {self.engine.capacity} at once", "n")
        return _Work(self, job)

    def explained(self, error: Exception) -> ApiError:
        """What a client is told of an error."""
        if isinstance(error, ApiError):
            return error
        if isinstance(error, Busy):
            return ApiError(429, "the server has no room for more requests now; try again", code="rate_limit_exceeded", headers=RETRY_AFTER)
        if isinstance(error, Stopped):
            return ApiError(503, str(error), code="stopped")
        if isinstance(error, TimeoutError):
            return ApiError(503, f"the answer was not complete within {self.limits.timeout:g} s; ask for fewer tokens", code="timeout")
        if isinstance(error, UserError):
            return ApiError(400, str(error))
        self.say(f"a request failed: {type(error).__name__}: {error}")
        return ApiError(500, "the server failed on this request", code="fault")


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


class _Work:
    """One job as a response. Decoding begins when the response does, and ends when the client leaves."""

    def __init__(self, routes: _Routes, job: Job) -> None:
        self._routes, self._job = routes, job
        self._answer = Answer(job, routes.served, routes.names)
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.ensure_future(self._produce(scope, receive, send))
        gone = asyncio.ensure_future(_disconnect(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _produce(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._routes.limits.timeout):
                if self._job.stream:
                    await self._stream(send)
                else:
                    await JSONResponse(await self._whole())(scope, receive, send)
        except Exception as error:
            told = self._routes.explained(error)
            if self._started:
                await _event(send, told.body(), last=True)
            else:
                await _json(told)(scope, receive, send)

    async def _whole(self) -> dict[str, Any]:
        pieces: list[list[Piece]] = [[] for _ in self._job.rows]
        async with aclosing(self._pieces()) as found:
            async for row, piece in found:
                pieces[row].append(piece)
        return self._answer.whole(pieces)

    async def _stream(self, send: Send) -> None:
        async with aclosing(self._pieces()) as found:
            await self._send_all(send, found)
        for chunk in self._answer.closing():
            await _event(send, chunk)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    async def _send_all(self, send: Send, found: AsyncIterator[tuple[int, Piece]]) -> None:
        async for row, piece in found:
            # Not before the first token: until then a refusal can still have its own status.
            if not self._started:
                self._started = True
                headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                for chunk in self._answer.opening():
                    await _event(send, chunk)
            await _event(send, self._answer.chunk(row, piece))

    async def _pieces(self) -> AsyncGenerator[tuple[int, Piece], None]:
        async with aclosing(self._routes.engine.decode(self._job.rows)) as events:
            async for row, event in events:
                if (piece := self._answer.take(row, event)) is not None:
                    yield row, piece


async def _disconnect(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _event(send: Send, value: dict[str, Any], *, last: bool = False) -> None:
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    await send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": not last})
