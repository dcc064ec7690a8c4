"""Objectives as light values: what a recipe's signature offers of a whole family, without importing torch.

An objective's file says `FAMILY = "pairs"`; its frozen dataclass is read from the syntax tree and becomes a pydantic value with `kind: "simpo"`, the
same fields, limits and docs, and `build()`, which imports the file. A recipe file that says the same family runs all of them. A new objective is so
reachable by its file's name, and nothing else has to know it.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, reduce
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Optional

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from tempering import docstrings, index
from tempering.errors import UserError
from tempering.types import Norm

SLOTS = ("algorithm", "method", "loss")
"""What a recipe may call its objective."""
STRUCTURE = ("part",)
"""Fields that say where an objective stands in a batch: the recipe's business, no flag."""
_TYPES = {"float": float, "int": int, "bool": bool, "str": str, "None": None, "Norm": Norm, "Coefficient": float}
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Pow: operator.pow}


class Choice(BaseModel):
    """An objective by name with its values; `build` makes it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    entry: ClassVar[index.Entry]
    overrides: ClassVar[Mapping[str, Any]] = {}
    """Defaults of the recipe that the method's file sets (`RECIPE`), by dotted name."""
    refuses: ClassVar[bool] = False
    """Whether the objective looks at its values when it is made (`__post_init__`)."""

    def build(self) -> Any:
        """The objective itself; its file is imported here.

        Raises:
            UserError: the objective refuses its values.
        """
        if type(self) is Choice:
            raise UserError("there is no loss of this family yet; write one with `temper new objective NAME`")
        values = {name: getattr(self, name) for name in type(self).model_fields if name != "kind"}
        try:
            return index.load(self.entry)(**values)
        except ValueError as error:
            raise UserError(f"loss {self.entry.name}: {error}") from None


class Unreadable(Exception):
    """An annotation or a default that the syntax tree does not tell."""


def _constant(node: ast.expr, names: Mapping[str, ast.expr]) -> Any:
    """Literals, constants of the same file, and arithmetic on them."""
    if isinstance(node, ast.Name) and node.id in names:
        return _constant(names[node.id], {k: v for k, v in names.items() if k != node.id})
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_constant(node.left, names), _constant(node.right, names))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_constant(node.operand, names)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise Unreadable(ast.unparse(node)) from None


def _annotation(node: ast.expr, names: Mapping[str, ast.expr]) -> Any:
    if isinstance(node, ast.Name) and node.id in _TYPES:
        return _TYPES[node.id]
    if isinstance(node, ast.Name) and node.id in names:
        return _annotation(names[node.id], {k: v for k, v in names.items() if k != node.id})
    if isinstance(node, ast.Constant) and node.value is None:
        return None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        left, right = _annotation(node.left, names), _annotation(node.right, names)
        if left is None or right is None:
            return Optional[right if left is None else left]  # noqa: UP045 - the member is only known at run time
        return left | right
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if node.value.id == "Literal":
            return Literal[tuple(_constant(item, names) for item in inner)]
        if node.value.id == "Annotated":
            return Annotated[_annotation(inner[0], names), *(_limits(item, names) for item in inner[1:])]
        if node.value.id == "tuple":
            return tuple[tuple(... if _is_ellipsis(item) else _annotation(item, names) for item in inner)]
    raise Unreadable(ast.unparse(node))


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...


def _limits(node: ast.expr, names: Mapping[str, ast.expr]) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Field":
        return Field(**{str(k.arg): _constant(k.value, names) for k in node.keywords})
    raise Unreadable(ast.unparse(node))


_BESIDE = "tempering.methods.objectives."


def _beside(path: str, module: str) -> str:
    return str(Path(path).with_name(f"{module.rpartition('.')[2]}.py"))


@lru_cache(maxsize=256)
def _module(path: str) -> tuple[dict[str, ast.expr], ast.Module]:
    """The constants of a file by name, with those that it imports from files beside it, and its tree."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    names: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(_BESIDE):
            there = _module(_beside(path, node.module or ""))[0]
            names |= {alias.asname or alias.name: there[alias.name] for alias in node.names if alias.name in there}
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = node.value
    return names, tree


def _lineage(path: str, name: str) -> Iterator[tuple[str, ast.ClassDef]]:
    """A class and those of its bases that lie beside it, in the same file or in one that it imports from (`_paired.py`): (file, class)."""
    tree = _module(path)[1]
    owner = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if owner is None:
        return
    yield path, owner
    found = {alias.asname or alias.name: node.module for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    for base in (node.id for node in owner.bases if isinstance(node, ast.Name)):
        module = found.get(base)
        if module is None:
            yield from _lineage(path, base)
        elif module.startswith(_BESIDE):
            yield from _lineage(_beside(path, module), base)


def read(entry: index.Entry) -> type[Choice]:
    """The value class of one objective, by its file's syntax tree.

    Raises:
        UserError: a field's annotation or default is not one that can be read without running the file.
    """
    names, _ = _module(entry.path)
    fields: dict[str, Any] = {"kind": (Literal[entry.name], entry.name)}
    overrides: Mapping[str, Any] = {}
    try:
        overrides = _constant(names["RECIPE"], names) if "RECIPE" in names else {}
        lineage = list(_lineage(entry.path, entry.public))
        for path, owner in reversed(lineage):
            known, docs = _module(path)[0], docstrings.class_docs(path).get(owner.name, {})
            for node in owner.body:
                if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.target.id in STRUCTURE:
                    continue
                name = node.target.id
                # A subclass that only sets another default keeps the documentation.
                about = docs.get(name) or (fields[name][1].description if name in fields else "")
                default = _constant(node.value, known) if node.value is not None else ...
                fields[name] = (_annotation(node.annotation, known), Field(default, description=about))
        # A loss's own fields first, then what its bases add.
        nearest = [
            node.target.id for _, owner in lineage for node in owner.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        ]
        fields = {name: fields[name] for name in dict.fromkeys(["kind", *nearest]) if name in fields}
    except Unreadable as error:
        raise UserError(
            f"{entry.path}: {error} cannot be read without running the file; use float, int, bool, str, Literal, tuple or Annotated[..., Field(...)]"
        ) from None
    made = create_model(entry.public, __base__=Choice, __module__=__name__, __doc__=entry.summary, **fields)
    made.entry, made.overrides = entry, overrides
    made.refuses = any(isinstance(node, ast.FunctionDef) and node.name == "__post_init__" for _, owner in lineage for node in owner.body)
    return made


@lru_cache(maxsize=1)
def _members() -> dict[str, type[Choice]]:
    return {}


def choice(name: str) -> type[Choice]:
    """The value class of the objective of this name, read once.

    Raises:
        UserError: nothing has this name.
    """
    made = _members()
    if name not in made:
        made[name] = read(index.find(name, "objective"))
    return made[name]


def family(name: str) -> Any:
    """The discriminated union of every objective whose file says `FAMILY = name`."""
    members = [choice(entry.name) for entry in index.methods("objective") if entry.family == name] or [Choice]
    return members[0] if len(members) == 1 else Annotated[reduce(operator.or_, members), Field(discriminator="kind")]


def default(name: str, first: str) -> Choice:
    """The value of objective `first` of a family, or of any other where that one is not there."""
    members = {entry.name: entry for entry in index.methods("objective") if entry.family == name}
    return choice(first if first in members else next(iter(members)))() if members else Choice()


def elsewhere(name: str) -> str:
    """How an objective of this name is run: "; kto is run by `temper run kto`"; "" where there is none."""
    name = name.replace("-", "_").lower()
    served = {entry.name: entry.family for entry in index.methods("objective") if entry.name in {**index.aliases(), **index.recipes()}}
    return f"; {name} is run by `temper run {name}` (recipe {index.recipe_of_family(served[name]).name})" if served.get(name) else ""


def having(classes: Iterable[type[BaseModel]], field: str) -> str:
    """Which objectives of the same family have a field that these lack: "; losses that have it: dpo, aot"; "" where none has."""
    mine = [cls for cls in classes if issubclass(cls, Choice) and cls is not Choice]
    families = {cls.entry.family for cls in mine}
    among = [choice(entry.name) for entry in index.methods("objective") if entry.family in families]
    names = [cls.entry.name for cls in among if field in cls.model_fields and cls not in mine]
    return f"; losses that have it: {', '.join(names)} (`temper run {names[0]}`)" if names else ""


def value(objective: Any) -> Any:
    """The light value of an objective that was given as a dataclass instance; anything else as it is.

    Raises:
        UserError: its values are outside the limits that its file states.
    """
    entry = next((e for e in index.methods("objective") if e.module == type(objective).__module__ and e.public == type(objective).__name__), None)
    if entry is None or not entry.family or not dataclasses.is_dataclass(objective):
        return objective
    cls = choice(entry.name)
    try:
        return cls(**{name: getattr(objective, name) for name in cls.model_fields if name != "kind"})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{entry.public}.{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}") from None


def over(default: Any, name: str, overrides: Mapping[str, Any]) -> Any:
    """A recipe parameter's default with a method's own defaults laid over it."""
    if name in overrides:
        return overrides[name]
    mine = {key.partition(".")[2]: new for key, new in overrides.items() if key.startswith(f"{name}.")}
    if mine.get("kind", getattr(default, "kind", None)) != getattr(default, "kind", None):
        # Another member of the union: its file lies beside that of the default.
        folder = type(default).__module__.split(".")[-2]
        default = index.load(index.find(mine["kind"], folder[:-1]))()
    return default.model_copy(update=mine) if mine else default


def _slot(recipe: Callable[..., Any]) -> str:
    """Which parameter of a recipe takes an objective of its family."""
    return next(name for name in SLOTS if name in inspect.signature(recipe).parameters)


def alias(entry: index.Entry) -> Callable[..., Any]:
    """The recipe of a method's family with this objective as its loss, or this stream as what it makes of the data, and the defaults of its file.

    Its `loss` (or `make`) comes first and takes this method only, so that help shows its own fields.
    """
    recipe = index.load(index.recipe_of_family(entry.family))
    slot, cls = (_slot(recipe), choice(entry.name)) if entry.kind == "objective" else ("make", index.load(entry))
    overrides = getattr(cls, "overrides", {})

    @functools.wraps(recipe)
    def named(**values: Any) -> Any:
        # Called from Python too, where nobody else fills in this method and its defaults.
        bound = inspect.signature(named).bind(**values)
        bound.apply_defaults()
        return recipe(**bound.arguments)

    found = dict(inspect.signature(recipe).parameters)
    first = found.pop(slot).replace(default=cls(), kind=inspect.Parameter.KEYWORD_ONLY)
    rest = [p.replace(default=over(p.default, p.name, overrides), kind=inspect.Parameter.KEYWORD_ONLY) for p in found.values()]
    named.__signature__ = inspect.Signature([first, *rest])  # type: ignore[attr-defined]
    named.__annotations__ = {**recipe.__annotations__, slot: cls}
    told = "".join(f"\n\n{name} = {new!r} by default here, from {Path(entry.path).name}." for name, new in overrides.items())
    told += "".join(f"\n\nThe paper, not applied here: {name} = {text}." for name, text in entry.paper)
    named.__doc__ = f"{entry.summary}{told}\n\n{inspect.cleandoc(recipe.__doc__ or '')}"
    return named


__all__ = ["Choice", "alias", "choice", "default", "elsewhere", "family", "having", "over", "read", "value"]
