"""What a recipe runs without naming it: methods that stand behind the functions it calls, for example the attacks of every run that forgets.

Read from syntax trees. From a recipe's file one goes on to each function or class of the package that is named there, to what is named inside
that, and so on; a file is not taken whole for one function of it. What is called on a value (`run.measure`) is not followed, so this finds less than
there is, not more.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from tempering.index import PACKAGE, Entry

METHODS = "tempering.methods."


def behind(recipe: Entry) -> frozenset[str]:
    """Modules of methods that a recipe of this package reaches through other modules."""
    return _behind(recipe.module) if Path(recipe.path).is_relative_to(PACKAGE) else frozenset()


def trains(recipe: Entry) -> bool:
    """Whether a recipe of this package takes an optimizer by name (`--optimizer.name`)."""
    return Path(recipe.path).is_relative_to(PACKAGE) and _module(recipe.module)[1].get("Optimizer") == ("tempering.config", "Optimizer")


@cache
def _behind(recipe: str) -> frozenset[str]:
    found, seen = set[str](), set[tuple[str, str]]()
    waiting = [(recipe, name) for name in _module(recipe)[0]]
    while waiting:
        module, name = waiting.pop()
        if (module, name) in seen:
            continue
        seen.add((module, name))
        if module.startswith(METHODS) and not module.rpartition(".")[2].startswith("_"):
            found.add(module)
        else:
            waiting += _named(module, name)
    return frozenset(found)


@cache
def _named(module: str, name: str) -> frozenset[tuple[str, str]]:
    """(module, name) of everything of this package that a function, class or constant of a module names."""
    defined, imported = _module(module)
    if name not in defined:
        # A package hands on what its files define.
        return frozenset({imported[name]} if name in imported else ())
    node = defined[name]
    here, found = {**imported, **_imports(node)}, set[tuple[str, str]]()
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id in here:
            found.add((".".join(here[part.value.id]), part.attr))
        elif isinstance(part, ast.Name) and part.id in here:
            found.add(here[part.id])
        elif isinstance(part, ast.Name) and part.id in defined and part.id != name:
            found.add((module, part.id))
    return frozenset(found)


@cache
def _module(module: str) -> tuple[dict[str, ast.stmt], dict[str, tuple[str, str]]]:
    """What a module defines at its top level by name, and what it imports of this package: name -> (module, name there)."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    file = next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
    tree = ast.parse(file.read_text(encoding="utf-8")) if file else ast.Module([], [])
    defined: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    imported: dict[str, tuple[str, str]] = {}
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            imported |= _imports(node)
    return defined, imported


def _imports(node: ast.AST) -> dict[str, tuple[str, str]]:
    return {
        alias.asname or alias.name: (part.module or "", alias.name)
        for part in ast.walk(node)
        if isinstance(part, ast.ImportFrom) and (part.module or "").startswith("tempering")
        for alias in part.names
    }
