"""A stand-in for an OpenAI-compatible server, on a free port of this machine, that answers, or misbehaves, as it was told.

Plain asyncio, because no server library sends half an answer. `script` says what becomes of each request in the order of their arrival; after its end
every request is answered. All requests are kept.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Deed = Literal["answer", "429", "500", "401", "quota", "hang up", "cut", "silence", "not json", "html", "list", "no choices", "error object"]


@dataclass
class Asked:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class StandIn:
    """`with StandIn(["429", "cut"]) as server:`; give clients `server.url`."""

    script: Sequence[Deed] = ()
    retry_after: str | None = None
    tokens: Sequence[tuple[str, float]] = (("Good", -0.5), (" day", -0.25))
    finish: str = "stop"
    offers_logprobs: bool = True
    asked: list[Asked] = field(default_factory=list)
    most_at_once: int = 0
    url: str = ""

    def __enter__(self) -> StandIn:
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,))
        self._thread.start()
        ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join()

    def _run(self, ready: threading.Event) -> None:
        async def main() -> None:
            self._done, self._now, self._clients = asyncio.Event(), 0, set()
            server = await asyncio.start_server(self._client, "127.0.0.1", 0)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
            ready.set()
            await self._done.wait()
            server.close()
            for task in self._clients:
                task.cancel()
            await asyncio.gather(*self._clients, return_exceptions=True)

        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(main())

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._clients.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Reads a request and deals with it; whether the connection stays."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        deed: Deed = self.script[len(self.asked)] if len(self.asked) < len(self.script) else "answer"
        self.asked.append(Asked(head[0].split()[1], headers, body))
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            # So that requests which were sent at once are here at once.
            await asyncio.sleep(0.005)
            if deed == "silence":
                await reader.read(1)  # returns when the client leaves
                return False
            content, keep = self._reply(deed, body)
            writer.write(content)
            await writer.drain()
            return keep
        finally:
            self._now -= 1

    def _reply(self, deed: Deed, body: dict[str, Any]) -> tuple[bytes, bool]:
        after = f"retry-after: {self.retry_after}\r\n" if self.retry_after is not None else ""
        if deed == "hang up":
            return b"", False
        if deed in ("429", "500", "401", "quota"):
            said = {"message": f"told {body.get('model')} to go away", "code": "insufficient_quota" if deed == "quota" else "x"}
            if deed == "401":
                said["message"] = f"wrong key: {self.asked[-1].headers.get('authorization', '').removeprefix('Bearer ')}"
            return _http(429 if deed == "quota" else int(deed), json.dumps({"error": said}), more=after), True
        if deed == "not json":
            return _http(200, '{"choices": [{"te'), True
        if deed == "html":
            return _http(200, "<html>Please log in</html>", kind="text/html"), True
        if deed == "list":
            return _http(200, "[1, 2]"), True
        if deed == "no choices":
            return _http(200, '{"choices": []}'), True
        if deed == "error object":
            return _http(200, '{"error": {"message": "the model fell over"}}'), True
        if body.get("stream"):
            events = [f"data: {json.dumps(chunk)}\n\n" for chunk in self._chunks(body)]
            if deed == "cut":
                events = events[:1]
            else:
                events.append("data: [DONE]\n\n")
            # No length, so the end of the connection is the end of the answer.
            return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + "".join(events).encode(), False
        content = _http(200, json.dumps({"choices": [self._choice(body, list(self.tokens), self.finish, "message")]}))
        return (content[:-10], False) if deed == "cut" else (content, True)

    def _chunks(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        ends = [None] * (len(self.tokens) - 1) + [self.finish]
        return [{"choices": [self._choice(body, [token], end, "delta")]} for token, end in zip(self.tokens, ends, strict=True)]

    def _choice(self, body: dict[str, Any], tokens: list[tuple[str, float]], finish: str | None, part: str) -> dict[str, Any]:
        text = "".join(token for token, _ in tokens)
        wanted = self.offers_logprobs and body.get("logprobs")
        names = [f"token_id:{len(token)}" if body.get("return_tokens_as_token_ids") else token for token, _ in tokens]
        logps = [logp for _, logp in tokens]
        if "messages" in body:
            content = [{"token": name, "logprob": logp} for name, logp in zip(names, logps, strict=True)]
            return {"index": 0, part: {"content": text}, "logprobs": {"content": content} if wanted else None, "finish_reason": finish}
        return {"index": 0, "text": text, "logprobs": {"tokens": names, "token_logprobs": logps} if wanted else None, "finish_reason": finish}


def _http(status: int, content: str, *, kind: str = "application/json", more: str = "") -> bytes:
    body = content.encode()
    return f"HTTP/1.1 {status} Status\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{more}\r\n".encode() + body
