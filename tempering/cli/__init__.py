"""The command line: one grammar, `temper run RECIPE`, and commands that look at what is there and at what runs left behind.

Flags are not written anywhere: they are read from a recipe's typed signature (`fields`), and so are the keys of a `--config` file (`files`). Both
give `Given` values with the place they came from, which `values` lays over the recipe's defaults and checks, so that every message names the flag
or the line.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code (0 done, 1 our fault, 2 wrong input, 3 a gate failed, 130 interrupted)."""
    if argv is None:
        from tempering.heap import settle

        settle(sys.argv[1:])
    from tempering.cli.app import run_command

    return run_command(list(sys.argv[1:] if argv is None else argv))


def script() -> None:
    """The `temper` program."""
    sys.exit(main())
