"""The catalogue as the package ships it: catalogue.tsv, made by docs/catalogue.py."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

FILE = Path(__file__).parent / "catalogue.tsv"


@dataclass(frozen=True)
class Paper:
    """One row of the catalogue; the fields are the file's columns."""

    id: str
    """S001 to S255."""
    name: str
    """What people call the method."""
    kind: str
    """method, analysis, benchmark, survey, system, theory or outside."""
    family: str
    title: str
    mechanism: str
    """What it does, in one short line."""
    outside: str = ""
    """Why it is not for this project; "" for all but the kind `outside`."""


@lru_cache(maxsize=4)
def papers(file: Path = FILE) -> tuple[Paper, ...]:
    """Every paper of the catalogue, by id."""
    _, *lines = file.read_text(encoding="utf-8").splitlines()
    return tuple(Paper(*line.split("\t")) for line in lines)


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _names(paper: Paper) -> set[str]:
    """The spellings that a paper answers to: id, title, name, and the name's pieces around brackets, slashes and colons."""
    pieces = re.split(r"\s*[()/:,]\s*", paper.name)
    return {_plain(name) for name in (paper.id, paper.title, paper.name, *pieces)} - {""}


def named(name: str, among: Sequence[Paper] | None = None) -> tuple[Paper, ...]:
    """The papers of this id, name or title; capitals, spaces and signs do not matter. A whole name comes before pieces of names."""
    wanted, every = _plain(name), papers() if among is None else among
    whole = tuple(paper for paper in every if wanted in (_plain(paper.id), _plain(paper.name), _plain(paper.title)))
    return (whole or tuple(paper for paper in every if wanted in _names(paper))) if wanted else ()
