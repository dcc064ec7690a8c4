"""Opening the port, and closing it: what is in flight at Ctrl-C or SIGTERM gets a few seconds to finish and is told otherwise."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import secrets
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from tempering.errors import UserError
from tempering.serve.app import Limits, make_app
from tempering.serve.engine import Decoding, Engine
from tempering.serve.jobs import Served

KEY_ENV = "TEMPERING_SERVE_KEY"


def serve(
    make: Callable[[], Decoding],
    served: Served,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    key: str | None = None,
    capacity: int = 320,
    limits: Limits | None = None,
    grace: float = 10.0,
    say: Callable[[str], None] = print,
) -> int:
    """Serves until SIGINT or SIGTERM; returns 0.

    Args:
        make: makes a decoder.
        host, port: where to listen; port 0 takes a free one.
        key: what clients must send; None takes the environment's TEMPERING_SERVE_KEY, or makes one and says it, once.
        capacity: choices that may be decoding or waiting at once; more are refused with 429.
        grace: seconds that requests in flight get at the end.
    Raises:
        UserError: another host without a key, a key that no header can hold, an address that cannot be listened on.
    """
    key = key if key is not None else os.environ.get(KEY_ENV) or None
    if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key and key):
        raise UserError("--key: expected printable ASCII characters without spaces around them, at least one")
    if key is None and not _is_local(host):
        raise UserError(f"--host {host}: others can reach this address, so set a key of your own with --key or in {KEY_ENV}")
    with _listen(host, port) as listener:
        at = listener.getsockname()
        url = f"http://{'[' + at[0] + ']' if ':' in at[0] else at[0]}:{at[1]}/v1"
        say(f"serving {served.name} at {url}; Ctrl-C stops")
        if key is None:
            key = secrets.token_urlsafe(24)
            say(f"key (made for this run, shown once): {key}")
        engine = Engine(make, capacity)
        try:
            _Server(make_app(engine, served, key, limits or Limits(), say), engine, grace, say).until_stopped(listener)
        finally:
            engine.close()
    return 0


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port < 65536:
        raise UserError(f"--port {port}: expected a number from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(256)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"--port {port}: something listens on {host}:{port} already; choose another port, or 0 for a free one") from None
        if error.errno == errno.EACCES:
            raise UserError(f"--port {port}: you may not listen on {host}:{port}; choose a port above 1023") from None
        raise UserError(f"--host {host}: cannot listen there ({(error.strerror or str(error)).lower()}); 127.0.0.1 is this machine") from None
    return listener


class _Server(uvicorn.Server):
    def __init__(self, app: ASGIApp, engine: Engine, grace: float, say: Callable[[str], None]) -> None:
        settings = {"lifespan": "off", "log_config": None, "access_log": False, "server_header": False, "http": "h11", "ws": "none"}
        # Our own end of grace comes first: a client then gets an answer that says why, not a closed connection.
        super().__init__(uvicorn.Config(app, timeout_graceful_shutdown=int(grace) + 2, **settings))
        self._engine, self._grace, self._say = engine, grace, say
        self._loop: asyncio.AbstractEventLoop | None = None

    def until_stopped(self, listener: socket.socket) -> None:
        """Runs the loop. uvicorn raises the signals that it caught once more at its end; here they have had their effect."""
        caught = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, lambda *_: None) for number in caught}
        try:
            asyncio.run(self._run(listener))
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def _run(self, listener: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        await self.serve([listener])
        self._say("stopped")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the end, the second one ends the waiting."""
        again = self.should_exit
        # Before anything is said: who reads it may send the second signal at once.
        super().handle_exit(signal.SIGTERM, frame)
        if again:
            self._end()
        elif self._loop is not None:
            rows = self._engine.in_flight
            self._say(f"stopping; choices in flight: {rows}, which get {self._grace:g} s, or until a second signal" if rows else "stopping")
            self._loop.call_later(self._grace, self._end)

    def _end(self) -> None:
        if self._engine.in_flight:
            self._say(f"choices that were ended unfinished: {self._engine.in_flight}")
        self._engine.fail_all()
