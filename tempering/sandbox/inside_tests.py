"""Inside another sandbox than the answer's: it runs the tests, whose names for the answer's functions are calls over a channel.

Only plain data comes back (`values.py`), so what is compared here is compared by this interpreter alone. Each test's verdict goes to the parent over
a pipe that only this process holds, with the run's nonce. Stands alone.
"""

from __future__ import annotations

import ast
import builtins
import json
import os
import runpy
import secrets
import socket
import sys
from typing import Any

LONGEST = 4 << 20
"""Bytes of one reply."""


class Held:
    """An object that the answer's process keeps: it can be handed back, and is equal to itself only."""

    def __init__(self, number: int) -> None:
        self.number = number


class Channel:
    """Calls to the answer's functions."""

    def __init__(self, number: int, pack: Any, unpack: Any) -> None:
        self.socket, self.pack, self.unpack, self.calls = socket.socket(fileno=number), pack, unpack, 0
        self.last: tuple[object, Any] = (None, 0)
        self.replies = self.socket.makefile("rb")

    def remote(self, name: str) -> Any:
        """A function of the answer by its name."""
        return lambda *given, **named: self.call(name, given, named)

    def call(self, name: str, given: Any, named: Any) -> Any:
        """What a function of the answer gives; it may raise what a function may raise."""
        self.calls += 1
        asked = {"id": secrets.token_hex(8), "name": name, "given": self.pack((given, named), self.number)}
        self.socket.sendall(json.dumps(asked).encode() + b"\n")
        line = self.replies.readline(LONGEST)
        if not line.endswith(b"\n"):
            raise ConnectionError("the answer's process ended or said too much")
        reply = json.loads(line)
        if reply["id"] != asked["id"]:
            raise ConnectionError("a reply to another call")
        if "error" in reply:
            kind = getattr(builtins, str(reply["error"]), None)
            error = (kind if isinstance(kind, type) and issubclass(kind, Exception) else RuntimeError)(str(reply.get("text")))
            self.last = (error, reply.get("line"))
            raise error
        return self.unpack(reply["value"], Held)

    @staticmethod
    def number(value: Any) -> int:
        """Of an object that the answer keeps."""
        if not isinstance(value, Held):
            raise TypeError(f"{type(value).__name__} is not plain data")
        return value.number


def unknown(source: str) -> set[str]:
    """Names that a text of Python uses and neither defines nor finds among the builtins; where there are none, builtins that it calls: a function of
    the answer may be named like one."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    defined = {node.id for node in names if not isinstance(node.ctx, ast.Load)} | {node.arg for node in nodes if isinstance(node, ast.arg)}
    defined |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    defined |= {
        (alias.asname or alias.name).partition(".")[0] for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
    }
    used = {node.id for node in names if isinstance(node.ctx, ast.Load)} - defined
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    return {name for name in used if not hasattr(builtins, name)} or (used & called)


def main() -> None:
    """Run every test and send its verdict."""
    sys.path.insert(0, os.getcwd())
    from values import pack, unpack  # type: ignore[import-not-found]

    given = json.load(sys.stdin)
    channel = Channel(given["channel"], pack, unpack)

    def verdict(number: int, passed: bool, why: str, line: Any = 0) -> None:
        told = {"nonce": given["nonce"], "test": number, "passed": passed, "why": why[:100], "line": line if type(line) is int else 0}
        os.write(given["verdict"], json.dumps(told).encode() + b"\n")

    for i, test in enumerate(given["tests"]):
        before = channel.calls
        try:
            names = {given["entry"]} if given["entry"] else unknown(given["setup"] + "\n" + test)
            remotes = {name: channel.remote(name) for name in names}
            for name, source in (("setup.py", given["setup"]), ("test.py", test)):
                with open(name, "w", encoding="utf-8") as file:
                    file.write(source)
            known = {name: value for name, value in runpy.run_path("setup.py", remotes).items() if not name.startswith("__")}
            runpy.run_path("test.py", known | remotes)
            verdict(i, channel.calls > before, "" if channel.calls > before else "the test calls nothing of the answer")
        except BaseException as error:
            verdict(i, False, f"{type(error).__name__}: {error}", channel.last[1] if channel.last[0] is error else 0)


if __name__ == "__main__":
    main()
