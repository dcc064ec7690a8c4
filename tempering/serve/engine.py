"""The one thread that owns the decoder, and the only file of the server that knows how a decoder is driven.

Requests come from the event loop through a queue of commands; what a step gives goes back in one call per listener. Every request in flight shares
the decoder's batch (continuous batching), so many clients at once cost little more than one. If a step fails (out of memory), its requests get the
error and the next ones a new decoder: the old one's state is unknown.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, Protocol

from tempering.sampling.types import PromptLogps, Request, Token
from tempering.types import Policy


class Decoding(Protocol):
    """What the server needs of `tempering.sampling.decoder.Decoder`."""

    @property
    def idle(self) -> bool: ...
    def submit(self, request: Request) -> int: ...
    def cancel(self, ticket: int) -> None: ...
    def step(self) -> list[Token]: ...
    def prompt_logps(self, ticket: int) -> PromptLogps: ...


def ready(policy: Policy, precision: Literal["auto", "fp32", "bf16"] = "auto") -> Policy:
    """What is served in the place of a policy: itself (fp32), or what its weights give in bfloat16, which "auto" takes where the processor is fast at
    it. The policy given is of no use any more: let go of it."""
    import torch

    from tempering.sampling.weights import for_decoding
    from tempering.signals import fast_bf16

    device = next(policy.model.parameters()).device
    fast = precision == "bf16" or (precision == "auto" and fast_bf16(device))
    return for_decoding(policy, torch.bfloat16) if fast else policy


def decoder_for(policy: Policy, max_rows: int) -> Decoding:
    """A decoder for what `ready` gave."""
    from tempering.sampling.decoder import Decoder

    return Decoder(policy, max_rows=max_rows)


Event = PromptLogps | Token


class Busy(Exception):
    """There is no room for these rows now."""


class Stopped(Exception):
    """Nothing is decoded any more, and why."""


@dataclass(eq=False)
class _Listener:
    """Who gets what the rows of one HTTP request give: (row, what), in lists, through the loop's own queue."""

    loop: asyncio.AbstractEventLoop
    requests: Sequence[Request]
    events: asyncio.Queue[list[tuple[int, Event | Exception]]] = field(default_factory=asyncio.Queue)

    def tell(self, events: list[tuple[int, Event | Exception]]) -> None:
        # Where the loop is closed nobody is left to tell.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.events.put_nowait, events)


class Engine:
    """Decodes on a thread of its own for listeners on an event loop.

    Args:
        make: makes a decoder: one now, another one where a step failed.
        capacity: rows that may be decoding or waiting at once.
    """

    def __init__(self, make: Callable[[], Decoding], capacity: int) -> None:
        self.capacity = capacity
        self.in_flight = 0
        """Rows; changed on the event loop only."""
        self._make = make
        self._commands: queue.SimpleQueue[tuple[str, _Listener | None]] = queue.SimpleQueue()
        self._rows: dict[int, tuple[_Listener, int]] = {}
        self._unscored: set[int] = set()
        self._over = False
        self._ending = "the server is shutting down"
        self._thread = threading.Thread(target=self._run, args=(make(),), name="decoder", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return not self._over

    async def decode(self, requests: Sequence[Request]) -> AsyncGenerator[tuple[int, Event], None]:
        """Yields (row, what) until every row has ended; closing the generator, or cancelling who waits on it, takes the rows out of the decoder.

        Raises:
            Busy: there is no room for them. Stopped: the server is shutting down, or its decoder is lost.
            UserError: the decoder refuses a request. Whatever a step raised.
        """
        if self.in_flight + len(requests) > self.capacity:
            raise Busy
        self.in_flight += len(requests)
        listener = _Listener(asyncio.get_running_loop(), requests)
        self._commands.put(("open", listener))
        running = len(requests)
        try:
            # After the command, because the thread looks through the commands once more when it is over: one of both sees the other.
            if self._over:
                raise Stopped(self._ending)
            while running:
                for row, event in await listener.events.get():
                    if isinstance(event, Exception):
                        raise event
                    yield row, event
                    running -= isinstance(event, Token) and event.finished != ""
        finally:
            self._commands.put(("close", listener))
            self.in_flight -= len(requests)

    def fail_all(self) -> None:
        """Ends everything in flight with `Stopped`."""
        self._commands.put(("fail", None))

    def close(self) -> None:
        """Ends everything in flight and the thread; returns when it has ended."""
        self._commands.put(("stop", None))
        self._thread.join()

    def _run(self, decoder: Decoding) -> None:
        try:
            self._serve(decoder)
        except Exception as error:
            self._ending = f"the decoder failed and could not be made again ({type(error).__name__}); restart the server"
        self._over = True
        self._give_up(Stopped(self._ending))
        with suppress(queue.Empty):
            while True:
                order, listener = self._commands.get_nowait()
                if order == "open" and listener is not None:
                    listener.tell([(0, Stopped(self._ending))])

    def _serve(self, decoder: Decoding) -> None:
        while True:
            order, listener = self._next(decoder)
            if order in ("fail", "stop"):
                for ticket in self._rows:
                    decoder.cancel(ticket)
                self._give_up(Stopped(self._ending))
                if order == "stop":
                    return
            elif listener is None:
                if not self._step(decoder):
                    decoder = self._make()
            elif order == "open":
                self._open(decoder, listener)
            else:
                self._close(decoder, listener)

    def _next(self, decoder: Decoding) -> tuple[str, _Listener | None]:
        """The next command; without one, and with something to decode, a step."""
        if decoder.idle:
            return self._commands.get()
        with suppress(queue.Empty):
            return self._commands.get_nowait()
        return "step", None

    def _open(self, decoder: Decoding, listener: _Listener) -> None:
        try:
            for row, request in enumerate(listener.requests):
                ticket = decoder.submit(request)
                self._rows[ticket] = (listener, row)
                if request.echo:
                    self._unscored.add(ticket)
        # The decoder refuses a request with a UserError; anything else is a fault, and no reason to stop serving others.
        except Exception as error:
            self._close(decoder, listener)
            listener.tell([(0, error)])

    def _close(self, decoder: Decoding, listener: _Listener) -> None:
        for ticket in [ticket for ticket, (owner, _) in self._rows.items() if owner is listener]:
            del self._rows[ticket]
            self._unscored.discard(ticket)
            decoder.cancel(ticket)

    def _step(self, decoder: Decoding) -> bool:
        """One step; False if it failed."""
        news: dict[_Listener, list[tuple[int, Event | Exception]]] = {}
        try:
            for token in decoder.step():
                listener, row = self._rows[token.ticket]
                mine = news.setdefault(listener, [])
                if token.ticket in self._unscored:
                    self._unscored.discard(token.ticket)
                    mine.append((row, decoder.prompt_logps(token.ticket)))
                mine.append((row, token))
                if token.finished:
                    del self._rows[token.ticket]
        except Exception as error:
            self._give_up(error)
            return False
        for listener, events in news.items():
            listener.tell(events)
        return True

    def _give_up(self, error: Exception) -> None:
        for listener in {id(owner): owner for owner, _ in self._rows.values()}.values():
            listener.tell([(0, error)])
        self._rows.clear()
        self._unscored.clear()
