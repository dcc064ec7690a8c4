"""Inside, beside the answer's code: it calls what it is asked to call and says what came back. It knows no test and no expected value.

The answer shares this process and may do with it as it likes; all it can send is what its own functions might have returned. Stands alone.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys


def line_of(error: BaseException) -> int:
    """The line of the answer's code that an error tells of, the innermost; 0 where it tells of none."""
    if isinstance(error, SyntaxError) and os.path.basename(error.filename or "") == "answer.py":
        return error.lineno or 0
    found, frames = 0, error.__traceback__
    while frames is not None:
        if os.path.basename(frames.tb_frame.f_code.co_filename) == "answer.py":
            found = frames.tb_lineno
        frames = frames.tb_next
    return found


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
            reply = {"error": type(error).__name__, "text": str(error)[:200], "line": line_of(error)}
        channel.sendall(json.dumps({"id": asked["id"], **reply}).encode() + b"\n")


if __name__ == "__main__":
    main()
