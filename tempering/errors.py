"""What a user may meet: every error that is the input's fault is one sentence with a mend.

`UserError` is for wrong input: it names the file, line or field, says what was expected, and how to mend it. The command line prints it without a
traceback and exits with 2. `assert` and plain exceptions are for programmers.
"""

from __future__ import annotations


class UserError(ValueError):
    """Wrong input: one clear sentence that names the place, the expectation and the mend. Exit code 2."""

    exit_code = 2


class GateFailed(Exception):
    """A ledger gate did not hold. The message says which gate and which items broke it. Exit code 3."""

    exit_code = 3


class ProcessFailed(Exception):
    """A process of a run of several failed or died. The message says which and how; the exit code is that process's."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


class Interrupted(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM) and wrote a checkpoint first. The message says how to resume. Exit code 130."""

    exit_code = 130
