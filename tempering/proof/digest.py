"""What a result depends on, as a number: syntax trees of the files that define it, and the number of the core's numerics.

A tree has no comments and no formatting; docstrings, hand-worked cases (`CASES`, `EQUIVALENT`) and what only they use are taken out, because none of
these changes what is computed.

The core (the loop, signals, sampling, measuring, and the helpers of `proof.small`) is not hashed: most changes to it change no result.
`CORE_NUMERICS` is raised by hand by whoever changes its numbers, and tests/golden holds values that fail until that is done. Results of a lower
number are stale: still shown, and to be run again when there is time.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from tempering import index
from tempering.errors import UserError
from tempering.proof import claims

CORE_NUMERICS = 1
ROOT = Path(__file__).parent.parent.parent
_APART = {"CASES", "EQUIVALENT"}
_PAPERS = ("tempering.data.strength", "tempering.forgetting.codebook", "tempering.forgetting.corrupt", "tempering.forgetting.newton")
_PAPERS += ("tempering.models.decisions",)
"""Modules outside of tempering.methods that are a paper's method."""
_FOLLOWED = ("tempering.methods.", "tempering.worlds", "tempering.replications._", "tempering.recipes.", *_PAPERS)


def tree_digest(source: str) -> str:
    """SHA-256 of a file's syntax tree without docstrings and hand-worked cases."""
    return hashlib.sha256(_dump(_bare(ast.parse(source))).encode()).hexdigest()


def _dump(node: object) -> str:
    """A tree as text. Not `ast.dump`, which gives other text in other versions of Python: empty fields are left out here."""
    if isinstance(node, ast.AST):
        fields = ((name, getattr(node, name, None)) for name in node._fields if name != "kind")
        return f"{type(node).__name__}({','.join(f'{name}={_dump(value)}' for name, value in fields if value not in (None, []))})"
    return f"[{','.join(map(_dump, node))}]" if isinstance(node, list) else repr(node)


def _bare(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            # Every bare string, not only the first: attributes are documented by the string under them.
            node.body = [line for line in node.body if not _is_text(line)] or [ast.Pass()]
    tree.body = [line for line in tree.body if not set(_binds(line)) & _APART]
    return _without_unused(tree)


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


def _binds(line: ast.stmt) -> list[str]:
    """Names that a line of the module's top level defines."""
    if isinstance(line, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).split(".")[0] for alias in line.names]
    if isinstance(line, ast.FunctionDef | ast.ClassDef):
        return [line.name]
    if isinstance(line, ast.Assign):
        return [target.id for target in line.targets if isinstance(target, ast.Name)]
    return [line.target.id] if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) else []


def _without_unused(tree: ast.Module) -> ast.Module:
    """Drop imports and private helpers that nothing uses now."""
    while True:
        kept: list[ast.stmt] = []
        for line in tree.body:
            used = _names(other for other in tree.body if other is not line)
            if isinstance(line, ast.Import | ast.ImportFrom) and getattr(line, "module", "") != "__future__":
                line.names = [alias for alias in line.names if (alias.asname or alias.name).split(".")[0] in used]
                keep = bool(line.names)
            else:
                bound = _binds(line)
                keep = not bound or any(not name.startswith("_") or name in used for name in bound)
            if keep:
                kept.append(line)
        if len(kept) == len(tree.body):
            return tree
        tree.body = kept


def _names(lines: Iterable[ast.stmt]) -> set[str]:
    return {node.id for line in lines for node in ast.walk(line) if isinstance(node, ast.Name)}


def files_of(name: str) -> tuple[Path, ...]:
    """The files that a claim's result depends on: the claim's own, its method's, the recipe of that name, and the methods, worlds, what
    claims share (`tempering.replications._name`) and recipes that it imports; of other packages only what is a paper's own (`_PAPERS`).

    Raises:
        UserError: the claim names a method that is not there.
    """
    path = claims.path_of(name)
    method = claims.read(path).method
    own = [Path(entry.path) for entry in index.entries() if entry.name == method]
    if not own:
        raise UserError(f"{path}: method {method!r} is not there{index.closest(method, [entry.name for entry in index.entries()])}")
    found = {path, *own}
    reading = [path]
    while reading:
        for node in ast.walk(ast.parse(reading.pop().read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(_FOLLOWED):
                modules = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
                files = {file for module in modules if (file := ROOT / Path(*module.split(".")).with_suffix(".py")).is_file()}
                # What claims share is a part of them, with what it imports.
                reading += [file for file in files - found if file.parent == claims.FOLDER]
                found |= files
    return tuple(sorted(found))


def digests(name: str, texts: Mapping[str, str] | None = None) -> dict[str, str]:
    """Path from the package's parent -> digest of its syntax tree, of every file in `files_of`.

    Args:
        texts: contents to take instead of the file's, by such a path.
    """
    found = {str(path.relative_to(ROOT).as_posix()): path for path in files_of(name)}
    return {short: tree_digest((texts or {}).get(short) or path.read_text(encoding="utf-8")) for short, path in found.items()}


def combined(parts: Mapping[str, str], core_numerics: int = CORE_NUMERICS) -> str:
    """One digest of all files and the number of the core."""
    return hashlib.sha256(repr((sorted(parts.items()), core_numerics)).encode()).hexdigest()
