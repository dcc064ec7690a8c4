"""What source files say of fields and arguments: read from syntax trees and docstrings, so that nothing is said twice and nothing is imported."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=256)
def class_docs(path: str) -> dict[str, dict[str, str]]:
    """Class -> field -> the docstring under it, by a file's syntax tree."""
    docs: dict[str, dict[str, str]] = {}
    for node in ast.parse(Path(path).read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef):
            continue
        own: dict[str, str] = {}
        for before, after in zip(node.body, node.body[1:], strict=False):
            text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and after.value.value
            if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and isinstance(text, str):
                own[before.target.id] = " ".join(text.split())
        docs[node.name] = own
    return docs


def field_docs(cls: type) -> dict[str, str]:
    """Field -> the docstring under it, of a class and its bases."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        path = getattr(importlib.import_module(base.__module__), "__file__", None) if base.__module__.startswith("tempering") else _source(base)
        if path and str(path).endswith(".py"):
            docs.update(class_docs(str(path)).get(base.__name__, {}))
    return docs


def _source(cls: type) -> str | None:
    if cls.__module__.split(".")[0] in ("builtins", "pydantic", "typing", "abc"):
        return None
    try:
        return inspect.getsourcefile(cls)
    except (TypeError, OSError):
        return None


def argument_docs(doc: str) -> dict[str, str]:
    """Argument -> description, from the `Args:` section of a docstring."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", inspect.cleandoc(doc), flags=re.MULTILINE)
    docs: dict[str, str] = {}
    name = ""
    for line in section.group(1).splitlines() if section else ():
        start = re.match(r"^ {4}(\w+)(?: \([^)]*\))?:\s*(.*)", line)
        if start:
            name, docs[start.group(1)] = start.group(1), start.group(2)
        elif name and line.strip():
            docs[name] += " " + line.strip()
    return docs
