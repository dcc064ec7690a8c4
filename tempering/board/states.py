"""The rows of the board: papers joined with the files that are about them and the replications that were stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempering import index
from tempering.board import elsewhere, evidence, reach
from tempering.board.catalogue import Paper, papers
from tempering.board.evidence import VERDICTS, Replication
from tempering.errors import UserError
from tempering.index import Entry

STATES = ("works", *VERDICTS, "in part", "planned", "outside", "stale")
"""What `chosen` takes: `works` is every verdict, `stale` any row with a replication that is older than the code."""


@dataclass(frozen=True)
class Row:
    """A paper and how far it stands here."""

    paper: Paper
    state: str
    """works, in part, planned or outside."""
    verdict: str = ""
    """Of its replications together: that of all, `partly` where they differ, "" where there is none."""
    entries: tuple[Entry, ...] = ()
    """Methods, recipes and other modules that name it in `CATALOGUE`."""
    recipes: tuple[str, ...] = ()
    """Recipes that reach them."""
    missing: tuple[str, ...] = ()
    """What a row in part lacks."""
    replications: tuple[Replication, ...] = ()
    stale: tuple[str, ...] = ()
    """Names of the replications that are older than the code."""

    @property
    def word(self) -> str:
        """The state as a reader sees it: the verdict where the row works."""
        return self.verdict if self.state == "works" else self.state

    @property
    def methods(self) -> tuple[Entry, ...]:
        """Its files but the recipes."""
        return tuple(entry for entry in self.entries if entry.kind != "recipe")

    @property
    def text(self) -> str:
        """What words are searched in."""
        paper, names = self.paper, " ".join(entry.name for entry in self.entries)
        return f"{paper.id} {paper.name} {paper.title} {paper.kind} {paper.family} {paper.mechanism} {self.word} {names}".lower()

    def json(self) -> dict[str, Any]:
        """The row as plain values."""
        paper = self.paper
        return {
            **{key: getattr(paper, key) for key in ("id", "name", "title", "kind", "family", "mechanism")},
            "state": self.state, "verdict": self.verdict, "stale": list(self.stale), "missing": list(self.missing), "outside": paper.outside,
            "methods": [f"{entry.kind}/{entry.name}" for entry in self.methods], "recipes": list(self.recipes),
            "cases": sum(entry.cases for entry in self.entries), "replications": [dict(one.whole) for one in self.replications],
        }  # fmt: skip


def row_of(paper: Paper, entries: Sequence[Entry], found: Sequence[Replication], is_stale: Callable[[Replication], bool] | None = None) -> Row:
    """One paper's row.

    Args:
        paper: of the catalogue.
        entries: the whole index.
        found: all replications.
        is_stale: whether a replication is older than the code; by default `evidence.stale`.
    """
    mine = tuple(entry for entry in entries if paper.id in entry.catalogue)
    names = {entry.name for entry in mine}
    tried = tuple(one for one in found if paper.id in one.catalogue or (not one.catalogue and one.method in names))
    reached = tuple(dict.fromkeys(name for entry in mine for name in _run_by(entry, entries)))
    verdicts = {one.verdict for one in tried}
    verdict = verdicts.pop() if len(verdicts) == 1 else "partly" if verdicts else ""
    old = tuple(one.name for one in tried if (is_stale or evidence.stale)(one))
    missing = _missing(mine, entries, tried)
    if paper.kind == "outside":
        state = "outside"
    elif not mine and not tried:
        state = "planned"
    else:
        state = "in part" if missing else "works"
    return Row(paper, state, verdict, mine, reached, missing if state == "in part" else (), tried, old)


def _run_by(entry: Entry, entries: Sequence[Entry]) -> tuple[str, ...]:
    return (entry.name,) if entry.kind == "recipe" else () if entry.kind == elsewhere.KIND else _running(entry, entries)


def _missing(mine: Sequence[Entry], entries: Sequence[Entry], tried: Sequence[Replication]) -> tuple[str, ...]:
    missing = [] if mine else ["no method or recipe names it in CATALOGUE"]
    # `temper merge` runs every merge, `temper reshape` every reshape; what a module is for is not a recipe's matter.
    run = [entry for entry in mine if entry.kind not in ("recipe", "merge", "reshape", elsewhere.KIND)]
    missing += [f"no recipe uses {entry.name}" for entry in run if not _running(entry, entries)]
    missing += [f"{entry.name} has no hand-worked cases" for entry in mine if entry.kind in ("objective", "stream", "merge") and not entry.cases]
    return tuple(missing if tried else [*missing, "no replication is stored"])


def _running(entry: Entry, entries: Sequence[Entry]) -> tuple[str, ...]:
    """Names of the recipes that run a method: those that import it, or else those behind whose functions it stands."""
    if direct := index.reaching(entry, entries):
        return direct
    recipes = [recipe for recipe in entries if recipe.kind == "recipe"]
    if entry.kind == "optimizer":
        # Chosen by name, wherever a recipe trains.
        return tuple(recipe.name for recipe in recipes if reach.trains(recipe))
    if entry.kind == "reward" and entry.family == "checked":
        # Chosen by name, wherever an environment is.
        return tuple(recipe.name for recipe in recipes if "tempering.methods.environments" in recipe.uses)
    return tuple(recipe.name for recipe in recipes if entry.module in reach.behind(recipe))


def rows(package: Path | None = None, place: Path | None = None) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """Every row of the catalogue, and a sentence for each stored file that could not be read.

    Args:
        package: a package folder other than this one, with methods/ and recipes/ in it.
        place: a folder of replications other than this package's.
    """
    entries = elsewhere.entries() if package is None else (*index.scan(package), *elsewhere.modules(package))
    found, bad = evidence.replications(place)
    return tuple(row_of(paper, entries, found) for paper in papers()), bad


def chosen(among: Iterable[Row], words: str = "", *, family: str | None = None, state: str | None = None, kind: str | None = None) -> tuple[Row, ...]:
    """The rows that hold every word and are of the family, state and kind.

    Raises:
        UserError: there is no such family, state or kind, or no row is left.
    """
    among = tuple(among)
    family = _known("--family", family, sorted({row.paper.family for row in among}))
    kind = _known("--kind", kind, sorted({row.paper.kind for row in among}))
    state = _known("--state", state and state.replace("-", " "), STATES)
    left = tuple(
        row
        for row in among
        if family in (None, row.paper.family)
        and kind in (None, row.paper.kind)
        and (state in (None, row.state, row.word) or (state == "stale" and row.stale))
        and all(word in row.text for word in words.lower().split())
    )
    if not left:
        asked = {"--family": family, "--kind": kind, "--state": state}
        said = " ".join([*([repr(words)] if words else []), *(f"{flag} {value!r}" for flag, value in asked.items() if value)])
        raise UserError(f"no paper of the catalogue matches {said}; ask for less, or `temper board` for all {len(among)}")
    return left


def _known(flag: str, value: str | None, known: Sequence[str]) -> str | None:
    if value is None or value.lower() in known:
        return value and value.lower()
    raise UserError(f"{flag}: expected one of {', '.join(known)}, got {value!r}{index.closest(value, known)}")
