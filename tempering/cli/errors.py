"""The one place where something that went wrong becomes a sentence and an exit code.

Wrong input: 2. A gate that failed: 3. Asked to stop: 130. Full disk, no permission: 2, with the file. Anything else is our fault: 1, and the
traceback lies in a file, because a user needs a sentence and a maintainer needs the traceback.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tempering.cli.show import one_line
from tempering.distributed import word
from tempering.errors import GateFailed, Interrupted, ProcessFailed, UserError


def guarded(action: Callable[[], int], *, debug: bool = False) -> int:
    """Run an action and turn what it raises into one sentence on stderr and an exit code."""
    try:
        code = action()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader (head, less) left. Python would complain once more when it closes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else (0 if error.code is None else 2)
    except BaseException as error:
        if debug:
            traceback.print_exc()
        code, sentence = explain(error)
        lost = word.lost_contact(error)
        if word.launched():
            word.leave(sentence=sentence, lost=lost)
        elif sentence and not lost:
            print(f"temper: {one_line(sentence)}", file=sys.stderr)
        return code


def explain(error: BaseException) -> tuple[int, str]:
    """(exit code, sentence) of an exception."""
    if isinstance(error, UserError | GateFailed | Interrupted | ProcessFailed):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "stopped"
    if type(error).__name__ == "ValidationError" and hasattr(error, "errors"):
        details: Any = error  # pydantic's; importing it to ask would cost more than it tells
        return 2, "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e.get('input')!r}"[:300] for e in details.errors()[:3])
    if isinstance(error, OSError) and (sentence := _system(error)):
        return 2, sentence
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return 1, "out of memory; lower --micro-tokens or --max-length, set --recompute-over or --checkpointing, or take a smaller model"
    if isinstance(error, RecursionError):
        return 2, "the input is nested too deeply to be read"
    return 1, _unexpected(error)


def _system(error: OSError) -> str:
    place = f" {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk is full: cannot write{place or ' any further'}; free some space or choose another folder with --out, then go on with --resume"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"no permission to use{place or ' a file'} ({(error.strerror or '').lower()}); choose another folder with --out or change its permissions"
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG) and error.filename:
        return f"{error.filename}: {(error.strerror or '').lower()}; check the path"
    if error.errno in (errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return f"the system has no more of something that is needed ({(error.strerror or '').lower()}){place}"
    return ""


def _unexpected(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error))
    try:
        folder = Path(tempfile.gettempdir())
        handle, name = tempfile.mkstemp(prefix=f"tempering-error-{time.strftime('%Y%m%d-%H%M%S')}-", suffix=".txt", dir=folder)
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as out:
            out.write(f"{' '.join(sys.argv)}\n\n{text}")
        where = f"the traceback is in {name}"
    except OSError:
        where = "run again with --debug to see the traceback"
    said = one_line(error)[:300] or "no message"
    return f"this is a fault in tempering, not in your input: {type(error).__name__}: {said}; {where}"
