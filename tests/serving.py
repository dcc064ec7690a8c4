"""What the tests of the wire share: decoders to serve with, and a server on a free port of this machine, in a thread of its own."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import uvicorn

from tempering.errors import UserError
from tempering.sample import behaviour_logps, gumbel_noise, stop_ids
from tempering.sampling.types import PromptLogps, Request, Token
from tempering.serve.app import Limits, make_app
from tempering.serve.engine import Decoding, Engine
from tempering.serve.jobs import Served
from tempering.types import Policy

KEY = "a-key-for-tests"


class PlainDecoder:
    """The decoder's twin without batch and cache: every step of every row is one forward pass over all its tokens."""

    def __init__(self, policy: Policy) -> None:
        self._policy, self._ends = policy, stop_ids(policy)
        self._rows: dict[int, tuple[Request, list[int]]] = {}
        self._next = 0

    @property
    def idle(self) -> bool:
        return not self._rows

    def submit(self, request: Request) -> int:
        if max(request.prompt_ids) >= self._policy.model.config.vocab_size:
            raise UserError(f"token id {max(request.prompt_ids)} is outside of the vocabulary")
        self._next += 1
        self._rows[self._next] = (request, [])
        return self._next

    def cancel(self, ticket: int) -> None:
        self._rows.pop(ticket, None)

    @torch.no_grad()
    def _logits(self, ids: Sequence[int]) -> torch.Tensor:
        return self._policy.model(torch.tensor([ids])).logits[0]

    def step(self) -> list[Token]:
        return [self._token(ticket, *row) for ticket, row in list(self._rows.items())]

    def _token(self, ticket: int, request: Request, new: list[int]) -> Token:
        logits_1V = self._logits([*request.prompt_ids, *new])[-1:]
        logp_V = behaviour_logps(logits_1V, temperature=request.temperature, top_k=request.top_k, top_p=request.top_p)[0]
        score_V = logp_V
        if request.temperature > 0:
            score_V = logp_V + torch.from_numpy(gumbel_noise(request.seed, request.key, request.sample, len(new), len(logp_V))).float()
        chosen = int(score_V.argmax())
        new.append(chosen)
        text = self._policy.tokenizer.decode(new, skip_special_tokens=True)
        finished = "stop" if chosen in self._ends or any(s in text for s in request.stop) else "length" if len(new) == request.max_new_tokens else ""
        if finished and not request.echo:
            self.cancel(ticket)
        elif finished:
            self._rows[ticket] = (request, new)
        return Token(ticket, chosen, float(logp_V[chosen]), _top(logp_V, request.top_logps), finished)

    def prompt_logps(self, ticket: int) -> PromptLogps:
        request, new = self._rows[ticket]
        logp_TV = self._logits(request.prompt_ids).log_softmax(-1)
        logps: list[float | None] = [None, *(float(logp_TV[t - 1, i]) for t, i in enumerate(request.prompt_ids) if t)]
        tops = [(), *(_top(logp_TV[t - 1], request.top_logps) for t in range(1, len(request.prompt_ids)))]
        if len(new) == request.max_new_tokens or new[-1] in self._ends:
            self.cancel(ticket)
        return PromptLogps(tuple(logps), tuple(tops))


def _top(logp_V: torch.Tensor, k: int) -> tuple[tuple[int, float], ...]:
    found = logp_V.topk(k)
    return tuple(zip(found.indices.tolist(), found.values.tolist(), strict=True))


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
    engine = Engine(make or (lambda: PlainDecoder(policy)), capacity)
    try:
        with running(make_app(engine, Served.of(policy, "tiny"), KEY, limits or Limits(), faults.append)) as url:
            yield f"{url}/v1"
    finally:
        engine.close()
