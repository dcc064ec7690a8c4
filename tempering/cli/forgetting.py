"""`temper audit` and `temper purge`: what was asked to be forgotten, provably, and what a run still holds of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tempering.cli.show import clean, say, table


def audit(log: Path, /, *, head: Annotated[str | None, Parameter()] = None) -> int:
    """Check the chain of an audit log of forgetting, and list its requests.

    Args:
        log: the file that runs with --audit append to.
        head: hash of the last line, where it was noted; without it, lines cut off at the end go unseen.
    """
    from tempering.forgetting.audit import verify

    lines = verify(log, head)
    rows = []
    for record in map(json.loads, lines):
        data = record.get("data", {}).get("forget", {})
        kept = record.get("kept")
        method = record.get("method", {}).get("kind", "")
        rows.append(
            (
                str(record["request"]),
                clean(str(record.get("when", ""))),
                clean(str(method)),
                clean(f"{data.get('rows', '?')} rows, sha256 {str(data.get('sha256', ''))[:12]}"),
                "" if kept is None else f"{100 * float(kept):.1f}%",
                clean(str(record.get("verdict", ""))),
            )
        )
    table(("request", "when", "method", "what was to go", "kept", "verdict"), rows, wrap=(3, 5))
    say(f"{len(lines)} requests; the chain holds{'' if head else ' (the end is only checked with --head)'}.")
    return 0


def purge(run: Path, /) -> int:
    """Remove the words that a run of forgetting still holds: tokenised rows in the store, texts in its scores and report.

    Args:
        run: the run's folder.
    """
    from tempering.forgetting.purge import purge as purged

    for sentence in purged(run):
        say(f"removed: {clean(sentence)}" if not sentence.startswith("there was") else sentence)
    return 0
