"""What the tests of the wire share: a decoder without a model, and a server on a free port of this machine, in a thread of its own."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from tempering.sampling.types import PromptLogps, Request, Token
from tempering.serve.app import Limits, make_app
from tempering.serve.engine import Decoding, Engine, decoder_for
from tempering.serve.jobs import Served
from tempering.types import Policy

KEY = "a-key-for-tests"


class Letters:
    """A tokenizer whose tokens are characters, for children that load no library."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": list(map(ord, text))}

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(map(chr, ids))


class GatedDecoder:
    """Says token 40 + step until the budget is used up, one step for each `release()`; remembers what was asked of it."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.submitted: list[Request] = []
        self.cancelled: list[int] = []
        self.seen = threading.Condition()
        self._rows: dict[int, list[int]] = {}

    @property
    def idle(self) -> bool:
        return not self._rows

    def submit(self, request: Request) -> int:
        with self.seen:
            self.submitted.append(request)
            ticket = len(self.submitted)
            self._rows[ticket] = [0, request.max_new_tokens]
            self.seen.notify_all()
        return ticket

    def cancel(self, ticket: int) -> None:
        with self.seen:
            if self._rows.pop(ticket, None):
                self.cancelled.append(ticket)
            self.seen.notify_all()

    def step(self) -> list[Token]:
        # A short wait instead of one without end: between steps the engine must see that a client has left.
        if not self.gate.acquire(timeout=0.01):
            return []
        out = []
        for ticket, row in list(self._rows.items()):
            row[0] += 1
            done = row[0] == row[1]
            if done:
                del self._rows[ticket]
            out.append(Token(ticket, 40 + row[0], -0.5, finished="length" if done else ""))
        return out

    def prompt_logps(self, ticket: int) -> PromptLogps:
        raise AssertionError("nothing is echoed here")

    def wait(self, holds: Callable[[GatedDecoder], bool]) -> None:
        """Until it holds; fails after ten seconds."""
        with self.seen:
            assert self.seen.wait_for(lambda: holds(self), timeout=10)


@contextlib.contextmanager
def running(app: Any) -> Iterator[str]:
    """An ASGI application on a free port; yields the address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, http="h11", ws="none", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextlib.contextmanager
def serving(policy: Policy, make: Callable[[], Decoding] | None = None, *, capacity: int = 64, limits: Limits | None = None) -> Iterator[str]:
    """`temper serve` in this process, without the command line; yields the base URL that clients are given."""
    faults: list[str] = []
    engine = Engine(make or (lambda: decoder_for(policy, 64)), capacity)
    try:
        with running(make_app(engine, Served.of(policy, "tiny"), KEY, limits or Limits(), faults.append)) as url:
            yield f"{url}/v1"
    finally:
        engine.close()
