"""Inside, beside the answer's code: it calls what it is asked to call and says what came back. It knows no test and no expected value.

The answer shares this process and may do with it as it likes; all it can send is what its own functions might have returned. Stands alone.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys


def main() -> None:
    """Import `answer.py`, then serve calls until the other side closes."""
    sys.path.insert(0, os.getcwd())
    from values import pack, unpack  # type: ignore[import-not-found]

    channel = socket.socket(fileno=json.load(sys.stdin)["channel"])
    held: list[object] = []

    def hold(value: object) -> int:
        held.append(value)
        return len(held) - 1

    answer, failed = None, None
    try:
        answer = importlib.import_module("answer")
    except BaseException as error:
        failed = error
    for line in channel.makefile("rb"):
        asked = json.loads(line)
        try:
            if failed is not None:
                raise failed
            function = getattr(answer, asked["name"])
            given = unpack(asked["given"], held.__getitem__)
            reply = {"value": pack(function(*given[0], **given[1]), hold)}
        except BaseException as error:
            reply = {"error": type(error).__name__, "text": str(error)[:200]}
        channel.sendall(json.dumps({"id": asked["id"], **reply}).encode() + b"\n")


if __name__ == "__main__":
    main()
