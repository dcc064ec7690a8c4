"""The executable literature on the terminal: `temper board`, every paper with its state, and `temper show`, one method or paper."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any

from cyclopts import Parameter

from tempering import board as literature
from tempering import docstrings, index
from tempering.board import Replication, Row, evidence
from tempering.cli.show import say, table, width
from tempering.errors import UserError


def board(
    *words: str,
    family: str | None = None,
    state: str | None = None,
    kind: str | None = None,
    html: Path | None = None,
    json_: Annotated[Path | None, Parameter("--json")] = None,
) -> int:
    """Every paper of the catalogue and how far it stands here, found by reading the code and the stored replications.

    Args:
        words: words that must occur in the id, name, title, family, mechanism or state.
        family: learn, scope, prefer, reinforce, forget, retain, fuse, decode, act, improve, measure, scale, see, survey.
        state: works, replicated, partly, not-replicated, inconclusive, in-part, planned, outside or stale.
        kind: method, analysis, benchmark, survey, system, theory or outside.
        html: write the rows to this file as one page that loads nothing.
        json_: write the rows to this file as JSON.
    """
    every, bad = literature.rows()
    rows = literature.chosen(every, " ".join(words), family=family, state=state, kind=kind)
    for sentence in bad:
        print(f"temper: replications: {sentence}", file=sys.stderr)
    if html is not None or json_ is not None:
        _write(rows, html, json_)
        return 0
    # A planned paper has its mechanism on the rest of the line, where that is enough to read.
    room = width() - 64 if width() >= 100 else 0
    lines = [(row.paper.id, shorten(row.paper.name, 28, placeholder="…"), row.paper.family, _state(row), _note(row, room)) for row in rows]
    table(("id", "paper", "family", "state", "what there is"), lines, wrap=(1, 4))
    say(f"\n{summary(rows)}. `temper show ID` tells more of one.")
    return 0


def _write(rows: Sequence[Row], html: Path | None, json_: Path | None) -> None:
    from tempering.home import write_atomic

    for path, flag in ((html, "--html"), (json_, "--json")):
        if path is not None and path.is_dir():
            raise UserError(f"{flag} {path}: is a folder; give a file's name")
        if path is not None and not path.absolute().parent.is_dir():
            raise UserError(f"{flag} {path}: there is no folder {path.parent}; make it first")
    if html is not None:
        from tempering.board.page import beside, render

        write_atomic(html, render(rows, beside(html)))
        say(f"wrote {html}")
    if json_ is not None:
        write_atomic(json_, json.dumps([row.json() for row in rows], indent=1, ensure_ascii=False) + "\n")
        say(f"wrote {json_}")


def summary(rows: Sequence[Row]) -> str:
    """ "255 papers: 3 replicated, 10 in part, 233 planned, 9 outside": states in the order of the board, those that occur."""
    counts = Counter(row.word for row in rows)
    old = sum(bool(row.stale) for row in rows)
    said = [f"{counts[word]} {word}" for word in literature.STATES if counts[word]] + ([f"{old} stale"] if old else [])
    return f"{len(rows)} paper{'s' if len(rows) != 1 else ''}: {', '.join(said)}"


def _state(row: Row) -> str:
    return row.word + (", stale" if row.stale else "")


def _note(row: Row, room: int) -> str:
    names = ", ".join(entry.name for entry in row.entries)
    if row.state == "works":
        return "; ".join([names, *(_effect(one) for one in row.replications)])
    if row.state == "in part":
        return f"{names}: {'; '.join(row.missing)}" if names else "; ".join(row.missing)
    return row.paper.outside or (shorten(row.paper.mechanism, room, placeholder=" …") if room else "")


def _effect(found: Replication) -> str:
    """ "accuracy +0.12 [+0.05, +0.19]"."""
    if found.effect is None:
        return found.metric
    span = f" [{found.interval[0]:+.3g}, {found.interval[1]:+.3g}]" if found.interval else ""
    return f"{found.metric} {found.effect:+.3g}{span}".strip()


# --------------------------------------------------------------------------------------------------------------------------------------- one of them


def show(name: str, /) -> int:
    """Show one method, recipe or paper: what it is, where it comes from, its defaults, recipe, cases and replication, and how far it stands.

    Args:
        name: as `temper methods` lists it (objective/dpo where a method and a recipe share a name), or an id (S082), name or title of the catalogue.
    """
    entry, found = _resolve(name)
    rows = [literature.row_of(paper, literature.entries(), literature.replications()[0]) for paper in found]
    for i, row in enumerate(rows):
        say("\n" * (i > 0) + _paper(row))
    if entry is not None:
        _method(entry)
    return 0


def _resolve(name: str) -> tuple[index.Entry | None, tuple[literature.Paper, ...]]:
    """A method or recipe, or papers; a paper with a single method or recipe is that."""
    try:
        return index.find(name), ()
    except UserError:
        found = literature.named(name)
        if not found:
            if "/" in name:
                raise
            hint = index.closest(name, [entry.name for entry in index.entries()] + [paper.name for paper in literature.papers()])
            raise UserError(f"there is no method, recipe or paper named {name!r}{hint}; `temper methods` and `temper board` list them") from None
    mine = [entry for entry in literature.entries() if {paper.id for paper in found} & set(entry.catalogue)]
    mine = [entry for entry in mine if entry.kind != "recipe"] or mine
    alone = len(found) == len(mine) == 1 and mine[0] not in literature.modules()
    return (mine[0], ()) if alone else (None, found)


def _paper(row: Row) -> str:
    paper = row.paper
    lines = [f"{paper.id} {paper.name} ({paper.kind}, {paper.family})", "", paper.title, paper.mechanism, "", f"state    {_state(row)}"]
    lines += [f"why      {paper.outside}"] if paper.outside else []
    lines += [f"missing  {one}" for one in row.missing]
    of = {entry.module for entry in literature.modules()}
    lines += [f"code     {_short(Path(e.path))}: {e.summary}" if e.module in of else f"see      temper show {e.kind}/{e.name}" for e in row.entries]
    return "\n".join([*lines, *_replication_lines(row.replications)])


def _method(entry: index.Entry) -> None:
    say(f"{entry.public or entry.name} ({entry.kind})\n")
    say(entry.doc)
    loaded = index.load(entry) if entry.public else None
    rows = _defaults(loaded)
    if rows:
        say()
        table(("field", "default", "meaning"), rows, wrap=(1, 2))
    say(f"\nsource   {_short(Path(entry.path))}:{entry.line}")
    for paper in entry.arxiv:
        say(f"paper    https://arxiv.org/abs/{paper}")
    if entry.kind == "recipe":
        used = [e for e in index.methods() if e.module in entry.uses]
        say(f"run      temper run {entry.name} --help")
        say(f"uses     {', '.join(f'{e.kind}/{e.name}' for e in used) or 'no method of this package'}")
    else:
        say(f"recipe   {', '.join(index.recipes_of(entry)) or 'none yet'}")
    stored = literature.replications()[0]
    by_id = {paper.id: paper for paper in literature.papers()}
    for one in entry.catalogue:
        row = literature.row_of(by_id[one], literature.entries(), stored) if one in by_id else None
        about = f"{row.paper.name}: {_state(row)}{''.join(f'; {lack}' for lack in row.missing)}" if row else "not in the catalogue"
        say(f"board    {one} {about}")
    _cases(entry)
    mine = [one for one in stored if one.method == entry.name or set(one.catalogue) & set(entry.catalogue)]
    for line in _replication_lines(mine):
        say(line)
    for name, text in entry.paper:
        say(f"theirs   {name} = {text}; shown, not applied")
    for other, meaning in entry.confused:
        say(f"not      {other}: {meaning}")
    for test in _tests(entry):
        say(f"test     {_short(test)}")
    twin = [e for e in index.entries() if e.name == entry.name and e.kind != entry.kind]
    if twin:
        say(f"also     {', '.join(f'temper show {e.kind}/{e.name}' for e in twin)}")


def _cases(entry: index.Entry) -> None:
    if entry.cases:
        cases = getattr(sys.modules.get(entry.module), "CASES", ())
        say(f"cases    {len(cases)} worked by hand")
        for case in cases:
            say(f"         - {case.what}")


def _replication_lines(found: Sequence[Replication]) -> list[str]:
    lines = []
    for one in found:
        told = f"{one.verdict}{', stale: the code changed since' if evidence.stale(one) else ''}"
        lines.append(f"tried    {told}" + (f" ({one.claim})" if one.claim else ""))
        if one.effect is not None:
            against = f" over {one.baseline}" if one.baseline else ""
            lines.append(f"         {_effect(one)}{against}" + (f", {one.seeds} seeds" if one.seeds else ""))
        lines += [f"         {one.command}"] if one.command else []
    return lines


def _short(path: Path) -> str:
    root = index.PACKAGE.parent
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _tests(entry: index.Entry) -> list[Path]:
    tests = index.PACKAGE.parent / "tests"
    return sorted(path for path in tests.rglob("test_*.py") if re.search(rf"(^|_){re.escape(entry.name)}(_|$)", path.stem[5:]))


def _defaults(loaded: Any) -> list[tuple[str, str, str]]:
    import dataclasses

    if loaded is None:
        return []
    if isinstance(loaded, type) and dataclasses.is_dataclass(loaded):
        docs = docstrings.field_docs(loaded)
        missing = dataclasses.MISSING
        return [
            (
                field.name,
                "required" if field.default is missing and field.default_factory is missing else _default_of(field),
                docs.get(field.name, ""),
            )
            for field in dataclasses.fields(loaded)
        ]
    if isinstance(loaded, type) and hasattr(loaded, "model_fields"):
        docs = docstrings.field_docs(loaded)
        return [
            (name, "required" if info.is_required() else repr(info.get_default(call_default_factory=True)), docs.get(name, ""))
            for name, info in loaded.model_fields.items()
        ]
    if callable(loaded) and not isinstance(loaded, type):
        from tempering.cli import fields as f

        return [(field.dotted, "required" if field.default is f.MISSING else repr(field.default), field.doc) for field in f.fields(loaded).values()]
    return []


def _default_of(field: Any) -> str:
    import dataclasses

    return repr(field.default if field.default is not dataclasses.MISSING else field.default_factory())
