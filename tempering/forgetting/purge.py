"""`temper purge RUN`: remove what a run of forgetting still holds of what it was told to forget.

That is: the tokenised forget rows in the store, the run's checkpoints and the model that `--base` made, which still know them, and, of a run that did
not redact, the words in its scores, ledger, samples and report. Numbers, ids, hashes and the run's own model stay. The data files and the model that
the run was given are the user's own and are not touched.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tempering.errors import UserError
from tempering.forgetting.redact import mark
from tempering.home import store_dir, write_atomic

ROLES = re.compile(r"forget")
WORDS = ("prompt", "output", "expected", "before_output", "after_output", "before", "after")


def purge(folder: Path) -> tuple[str, ...]:
    """Remove the words; a sentence for each thing that was done.

    Raises:
        UserError: this is no run folder, or one of another recipe.
    """
    try:
        recipe = json.loads((folder / "config.json").read_text())["recipe"]
        lock = json.loads((folder / "lock.json").read_text())
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder} is no folder of a finished run; give one that `temper run forget` wrote") from None
    data = lock.get("data", {})
    if not any(ROLES.match(role) for role in data):
        raise UserError(f"{folder} is a run of {recipe}, which was told to forget nothing; give a run of `temper run forget`")
    done = [*_store(data), *_weights(folder, lock), *_words(folder)]
    return tuple(done) or ("there was nothing left to remove",)


def _store(data: dict[str, Any]) -> Iterator[str]:
    for role, of in sorted(data.items()):
        table = store_dir("tables") / str(of.get("table", ""))
        if ROLES.match(role) and re.fullmatch(r"[0-9a-f]{16,}", str(of.get("table", ""))) and table.is_dir():
            shutil.rmtree(table)
            yield f"{role}: the tokenised rows in the store"


def _weights(folder: Path, lock: dict[str, Any]) -> Iterator[str]:
    if (folder / "checkpoints").is_dir():
        shutil.rmtree(folder / "checkpoints")
        yield "the run's checkpoints, of before it had forgotten"
    for inner in sorted(path for path in folder.iterdir() if path.name != "model" and (path / "model").is_dir()):
        shutil.rmtree(inner)
        yield f"the model {inner.name!r} that was trained on the forget rows on the way"
    for stage, what in (("alternates", "the other answers that the model was asked for"), ("door", "what the model said about the name")):
        if (folder / stage).is_dir():
            shutil.rmtree(folder / stage)
            yield what
    made = store_dir("learned") / Path(str(lock.get("knowing", ""))).name
    if lock.get("knowing") and made.is_dir():
        shutil.rmtree(made)
        yield f"the model that knows, {made.name} in the store"


def _words(folder: Path) -> Iterator[str]:
    """Scores, ledger and samples with hashes in place of the words of target items; the page is made again from them."""
    changed = []
    for path in sorted([*folder.glob("*.scores.json"), folder / "ledger.json"]):
        if not path.exists():
            continue
        whole = json.loads(path.read_text())
        hits = sum(_mark(item) for probe in whole.get("probes", ()) if probe.get("side") == "target" for item in _items(probe))
        if hits:
            write_atomic(path, json.dumps(whole, ensure_ascii=False))
            changed.append(path.name)
    samples = folder / "samples.json"
    if changed and samples.exists():
        write_atomic(samples, "[]")
        changed.append(samples.name)
    if changed:
        from tempering import report

        report.write(folder)
        yield f"words in {', '.join(changed)} and in the report"


def _items(probe: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name in ("items", "gained", "lost"):
        yield from probe.get(name, ())


def _mark(item: dict[str, Any]) -> int:
    hits = 0
    for name in WORDS:
        text = item.get(name)
        if isinstance(text, str) and text and not text.startswith("[sha256 "):
            item[name], hits = mark(text), hits + 1
    return hits
