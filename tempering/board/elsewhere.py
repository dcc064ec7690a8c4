"""Modules that are about a paper and are no method and no recipe: a planner, an analysis, a part of the engine. They say so in `CATALOGUE`, as
methods do.

A paper that describes a system has no one file under methods/. Its module is an entry of kind "module", named by its path in the package.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

from tempering import index
from tempering.index import Entry

KIND = "module"
_SAYS = re.compile(r"^CATALOGUE\b", re.MULTILINE)


@cache
def modules(package: Path = index.PACKAGE) -> tuple[Entry, ...]:
    """The modules of a package outside of methods/ and recipes/ with a `CATALOGUE`, in order of their names; a package by its `__init__.py`."""
    found = []
    for path in sorted(package.rglob("*.py")):
        short = path.relative_to(package)
        if short.parts[0] in ("methods", "recipes") or not _SAYS.search(path.read_text(encoding="utf-8")):
            continue
        name = ".".join(short.with_suffix("").parts).removesuffix(".__init__")
        entry = index.read_entry(path, KIND, f"{package.name}.{name}")
        if entry is not None and entry.catalogue:
            found.append(replace(entry, name=name))
    return tuple(found)


def entries() -> tuple[Entry, ...]:
    """All that a row of the board may rest on: methods, recipes, and these."""
    return (*index.entries(), *modules())
