"""What is there: methods and recipes found by walking the package.

There is no registry: a file under methods/<kind>/ or recipes/ is found because it is there, and its public name is its file name (`dpo.py` holds
`DPO` or `dpo`). The index reads syntax trees and imports nothing, so that `temper methods` and `temper --help` stay fast; what it read is kept in
the user's cache folder, file by file, and read again when a file's time or size changed.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from functools import lru_cache, reduce
from operator import or_
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from tempering.errors import UserError
from tempering.home import home

PACKAGE = Path(__file__).parent
_FORMAT = 6
"""Of the cache file: raise it when `Entry` changes."""


def union(package: str, family: str | None = None) -> Any:
    """The discriminated union of the public values (named like their file) in a package of light modules; of one family (`FAMILY`) or all."""
    from pydantic import Field

    found = importlib.import_module(package)
    members = []
    for module in sorted(pkgutil.iter_modules(found.__path__), key=lambda m: m.name):
        if module.name.startswith("_"):
            continue
        loaded = importlib.import_module(f"{package}.{module.name}")
        if family is not None and getattr(loaded, "FAMILY", None) != family:
            continue
        members.append(next(value for name, value in vars(loaded).items() if _is_public(name, module.name) and isinstance(value, type)))
    return Annotated[reduce(or_, members), Field(discriminator="kind")]


@dataclass(frozen=True)
class Entry:
    """One method or recipe as its file tells it."""

    kind: str
    """The folder, in the singular: objective, scope, probe, ..., recipe."""
    name: str
    """The file's name, which is what a user types."""
    public: str
    """The public class or function in it, "" where there is none by the file's name."""
    module: str
    path: str
    line: int
    summary: str
    """The first sentence of the module's docstring."""
    doc: str
    """The module's whole docstring."""
    detail: str
    """The docstring of the public class or function."""
    arxiv: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    """Method modules that a recipe imports, anywhere in the file."""
    family: str = ""
    """What the file says in `FAMILY`: the kind of feedback an objective learns from; of a recipe, whose objectives it runs."""
    catalogue: tuple[str, ...] = ()
    """Ids of the papers of the board that this file is about: its `CATALOGUE`."""
    cases: int = 0
    """How many hand-worked cases the file has: the elements of its `CASES`."""
    confused: tuple[tuple[str, str], ...] = ()
    """(what it is often taken for, what that is): its `CONFUSED_WITH`."""
    paper: tuple[tuple[str, str], ...] = ()
    """(a recipe's setting, what the paper sets it to, for which models and where it says so): its `PAPER`, shown and never applied."""


def _is_public(name: str, stem: str) -> bool:
    return name.lower() == stem.replace("_", "") or name == stem


def first_sentence(doc: str) -> str:
    """The first sentence of a docstring, on one line."""
    paragraph = " ".join(doc.strip().split("\n\n")[0].split())
    match = re.match(r"(.+?[.!?])(?=\s+[A-Z(`]|$)", paragraph)
    return match.group(1) if match else paragraph


def read_entry(path: Path, kind: str, module: str) -> Entry | None:
    """One file's entry by its syntax tree; None for a file that does not parse (the import of that file tells why)."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):
        return None
    doc = ast.get_docstring(tree) or ""
    defined = [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    public = next((node for node in defined if _is_public(node.name, path.stem)), None)
    uses: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tempering.methods."):
            uses.add(node.module or "")
            uses.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            uses.update(alias.name for alias in node.names if alias.name.startswith("tempering.methods."))
    constants = dict(_constants(tree))
    found = re.findall(r"arxiv(?:\.org/abs/|[: ]\s*)(\d{4}\.\d{4,5})", doc, flags=re.IGNORECASE)
    return Entry(
        kind=kind,
        name=path.stem,
        public=public.name if public else "",
        module=module,
        path=str(path),
        line=public.lineno if public else 1,
        summary=first_sentence(doc),
        doc=doc,
        detail=(ast.get_docstring(public) or "") if public else "",
        arxiv=tuple(dict.fromkeys(found)),
        uses=tuple(sorted(uses)),
        family=next(iter(_words(constants.get("FAMILY"))), ""),
        catalogue=_words(constants.get("CATALOGUE")),
        cases=_length(constants.get("CASES")),
        confused=_pairs(constants.get("CONFUSED_WITH")),
        paper=_pairs(constants.get("PAPER")),
    )


def _constants(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in tree.body:
        if isinstance(node, ast.Assign):
            yield from ((target.id, node.value) for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value


def _words(value: ast.expr | None) -> tuple[str, ...]:
    """The strings of a tuple or list, or a single string."""
    elements = value.elts if isinstance(value, ast.Tuple | ast.List) else [value]
    return tuple(node.value for node in elements if isinstance(node, ast.Constant) and isinstance(node.value, str))


def _pairs(value: ast.expr | None) -> tuple[tuple[str, str], ...]:
    """A dictionary of strings."""
    given = zip(value.keys, value.values, strict=True) if isinstance(value, ast.Dict) else ()
    return tuple((*_words(key), *_words(text)) for key, text in given if len((*_words(key), *_words(text))) == 2)  # type: ignore[misc]


def _length(value: ast.expr | None) -> int:
    """Elements of a tuple or list as it is written; sums of such are added, and anything else counts as one."""
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
        return _length(value.left) + _length(value.right)
    return 0 if value is None else len(value.elts) if isinstance(value, ast.Tuple | ast.List) else 1


def _files(root: Path) -> Iterator[tuple[Path, str, str]]:
    """(file, kind, module) of everything under methods/ and recipes/ of a package folder."""
    for folder in sorted(p for p in (root / "methods").glob("*") if p.is_dir()):
        kind = folder.name[:-1] if folder.name.endswith("s") else folder.name
        for path in sorted(folder.glob("*.py")):
            if not path.stem.startswith("_"):
                yield path, kind, f"tempering.methods.{folder.name}.{path.stem}"
    for path in sorted((root / "recipes").rglob("*.py")):
        if not path.stem.startswith("_"):
            yield path, "recipe", ".".join(("tempering", *path.relative_to(root).with_suffix("").parts))


def _cache_file(root: Path) -> Path:
    """One for each package folder, so that several checkouts on a machine do not read what the others have."""
    return home() / "index" / f"{hashlib.sha256(str(root).encode()).hexdigest()[:16]}.json"


def _read_cache(file: Path) -> dict[str, Any]:
    # The cache only saves time: one that is missing, unreadable or of another shape is made anew.
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        return stored["files"] if stored["format"] == _FORMAT and isinstance(stored["files"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def scan(root: Path = PACKAGE, cache: Path | None = None) -> tuple[Entry, ...]:
    """Every method and recipe under a package folder, in order of kind and name.

    Args:
        root: the package folder, with methods/ and recipes/ in it.
        cache: where what was read is kept; by default a file in the user's cache folder.
    """
    file = cache or _cache_file(root)
    old = _read_cache(file)
    new: dict[str, Any] = {}
    entries = []
    for path, kind, module in _files(root):
        stat = path.stat()
        stamp = [stat.st_mtime_ns, stat.st_size]
        known = old.get(str(path))
        try:
            entry = _from_cache(known) if known and known.get("stamp") == stamp else read_entry(path, kind, module)
        except (TypeError, KeyError, ValueError, AttributeError):  # a cache file that someone edited
            entry = read_entry(path, kind, module)
        if entry is not None:
            entries.append(entry)
            new[str(path)] = {"stamp": stamp, "entry": asdict(entry)}
    if new != old:
        _write_cache(file, new)
    return tuple(sorted(entries, key=lambda e: (e.kind == "recipe", e.kind, e.name)))


def _from_cache(known: Mapping[str, Any]) -> Entry:
    entry = known["entry"]
    lists = {name: tuple(entry[name]) for name in ("arxiv", "uses", "catalogue")}
    pairs = {name: tuple((key, text) for key, text in entry[name]) for name in ("confused", "paper")}
    return Entry(**{**entry, **lists, **pairs})


def _write_cache(file: Path, files: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):  # a read-only home costs a few milliseconds per call, nothing else
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, delete=False) as out:
            json.dump({"format": _FORMAT, "files": files}, out)
        os.replace(out.name, file)


@lru_cache(maxsize=1)
def entries() -> tuple[Entry, ...]:
    """The index of this package."""
    return scan()


def recipes() -> dict[str, Entry]:
    """The package's recipes by name."""
    return {entry.name: entry for entry in entries() if entry.kind == "recipe"}


def recipe_of_family(family: str) -> Entry:
    """The recipe that runs the objectives of a family.

    Raises:
        UserError: no recipe does.
    """
    found = [entry for entry in recipes().values() if entry.family == family]
    if not found:
        raise UserError(f"no recipe runs objectives of the family {family!r}")
    return found[0]


def aliases() -> dict[str, Entry]:
    """Objectives and streams that are run by their own name, as their family's recipe with that value; a recipe file of the name wins."""
    known = recipes()
    served = {entry.family for entry in known.values()} - {""}
    return {entry.name: entry for kind in ("objective", "stream") for entry in methods(kind) if entry.family in served and entry.name not in known}


def methods(kind: str | None = None) -> tuple[Entry, ...]:
    """The package's methods, of one kind or all."""
    return tuple(entry for entry in entries() if entry.kind != "recipe" and kind in (None, entry.kind))


def recipes_of(entry: Entry) -> tuple[str, ...]:
    """Names of the recipes that import this method, or the union of its whole kind (`AnyScope`)."""
    return reaching(entry, recipes().values())


def reaching(entry: Entry, among: Iterable[Entry]) -> tuple[str, ...]:
    """Names of those of the entries that are recipes and import this method, or the union of its whole kind."""
    package = entry.module.rpartition(".")[0]
    recipes = [recipe for recipe in among if recipe.kind == "recipe"]
    named = [recipe.name for recipe in recipes if entry.module in recipe.uses or package in recipe.uses]
    if entry.family and entry.kind != "recipe" and (runs := [recipe.name for recipe in recipes if recipe.family == entry.family]):
        # The family's recipe by its own name, and by the method's: an alias, or a recipe file of that name.
        named += [*runs, entry.name]
    return tuple(dict.fromkeys(sorted(named, key=lambda name: name != entry.name)))


def closest(name: str, known: Any, *, start: str = "did you mean") -> str:
    """ " (did you mean 'x'?)" with the most similar known name, or ""."""
    known = [str(k) for k in known]
    by_lower = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.55)
    return f"; {start} {by_lower[near[0]]!r}?" if near else ""


def settings(method: Any) -> dict[str, Field[Any]]:
    """The fields of a method that is a dataclass, by their names as users write them: `lambda_` is "lambda"."""
    return {one.name.rstrip("_"): one for one in fields(method)}


def find(name: str, kind: str | None = None) -> Entry:
    """The entry of a name as a user types it: "dpo", "DPO", or "objective/dpo" where a method and a recipe share it (methods come first).

    Raises:
        UserError: nothing has this name.
    """
    wanted = name.split("/")[-1].lower().replace("-", "_")
    kind = kind or (name.split("/")[0].rstrip("s") if "/" in name else None)
    among = [entry for entry in entries() if kind in (None, entry.kind)]
    for entry in among:
        if wanted in (entry.name.lower(), entry.public.lower()):
            return entry
    what = kind or "method or recipe"
    every = sorted({entry.name for entry in among})
    listing = f"; there are: {', '.join(every)}" if len(every) <= 12 else "; `temper methods` lists them"
    raise UserError(f"there is no {what} named {name!r}{closest(wanted, every)}{listing}")


def load(entry: Entry) -> Any:
    """Import the entry's module and give its public class or function."""
    return getattr(importlib.import_module(entry.module), entry.public)


def load_recipe(spec: str) -> Callable[..., Any]:
    """A recipe by name, or by `path/to/file.py:function`.

    Raises:
        UserError: no recipe has this name, or the file cannot be read or imported, or it has no such function.
    """
    if not re.search(r"\.py(:|$)", spec):
        name = spec.replace("-", "_")
        known = recipes()
        if name in (named := aliases()):
            from tempering import choices

            return choices.alias(named[name])
        if name not in known:
            hint = closest(spec, (*known, *named)) or f"; there are: {', '.join(known)}"
            raise UserError(f"there is no recipe {spec!r}{hint} (your own is path/to/file.py:function)")
        return load(known[name])
    place, _, function = spec.rpartition(".py")
    path, function = Path(f"{place}.py"), function.lstrip(":") or Path(place).name
    if not path.is_file():
        raise UserError(f"recipe {spec!r}: there is no file {path}")
    found = getattr(_import_file(path), function, None)
    if not inspect.isfunction(found):
        names = [node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)]
        hint = closest(function, names) or (f"; there are: {', '.join(names)}" if names else "; the file defines no function")
        raise UserError(f"recipe {spec!r}: {path} has no function {function!r}{hint}")
    return found


def _import_file(path: Path) -> ModuleType:
    # Its own prefix, so that a recipe file called json.py hides nothing; registered, because type hints look their module up by name.
    name = f"tempering_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: not a Python file that can be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{path} line {error.lineno}: {error.msg}; this recipe file is not valid Python") from None
    except ImportError as error:
        raise UserError(f"{path}: {error}; install or correct what this recipe file imports") from None
    return module


# ------------------------------------------------------------------------------------------------------- documentation, read where it is written


@dataclass(frozen=True)
class Listing:
    """A row of `temper methods`."""

    entry: Entry
    recipes: tuple[str, ...] = field(default=())


def search(query: str = "") -> tuple[Listing, ...]:
    """Entries whose name, kind, text or arXiv id holds every word of the query; all for an empty one."""
    words = query.lower().split()
    return tuple(
        Listing(entry, recipes_of(entry))
        for entry in entries()
        if all(word in f"{entry.kind} {entry.name} {entry.public} {entry.doc} {entry.detail}".lower() for word in words)
    )
