"""A recipe's signature as flat fields: one per flag, one per key of a config file.

A parameter that is a value (a frozen pydantic model) is taken apart into its fields, recursively: `optimizer: Optimizer` gives `optimizer.lr`. A
union of values told apart by `kind` gives the fields of all its members; each field remembers which kinds have it. The discriminating field
(`kind`), or else `name`, may be spelled by the parameter alone: `--scope lora` is `--scope.kind lora`, `--optimizer sgd` is `--optimizer.name
sgd`. A field whose last name occurs once in the whole signature may be spelled by it: `--lr` is `--optimizer.lr`.
"""

from __future__ import annotations

import inspect
import types
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from tempering import docstrings
from tempering.errors import UserError

Path = tuple[str, ...]
MISSING: Any = inspect.Parameter.empty


@dataclass(frozen=True)
class Field:
    """One thing that can be set."""

    path: Path
    hint: Any
    """The annotation, with its limits."""
    default: Any
    doc: str
    kinds: tuple[str, ...] = ()
    """Where it belongs to a union: the kinds that have it; empty = always."""
    hints: Mapping[str, Any] | None = None
    """Where members of a union disagree: kind -> annotation."""
    choices: tuple[str, ...] = ()
    alias: bool = False
    """True for `kind` and `name`, which the parameter's own name sets."""

    @property
    def dotted(self) -> str:
        return ".".join(self.path)

    @property
    def group(self) -> str:
        return self.path[0] if len(self.path) > 1 else ""

    @property
    def is_dict(self) -> bool:
        return any(_plain(option) is dict for option in options(self.hint))

    @property
    def is_list(self) -> bool:
        return any(_plain(option) in (tuple, list, set, frozenset) for option in options(self.hint))

    @property
    def is_bool(self) -> bool:
        return any(option is bool for option in options(self.hint))


def _plain(hint: Any) -> Any:
    return get_origin(hint) or hint


def options(hint: Any) -> tuple[Any, ...]:
    """The members of a union without None; one member for anything else. `Annotated` is looked through."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(inner for option in get_args(hint) if option is not type(None) for inner in options(option))
    return (hint,)


def allows_none(hint: Any) -> bool:
    """Whether None is among what an annotation takes."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return hint is None or hint is type(None) or (get_origin(hint) in (Union, types.UnionType) and any(allows_none(o) for o in get_args(hint)))


def values_of(hint: Any) -> tuple[type[BaseModel], ...]:
    """The value classes of an annotation, or () if it is not made of values only."""
    found = options(hint)
    return found if all(isinstance(o, type) and issubclass(o, BaseModel) for o in found) else ()


def kind_of(cls: type[BaseModel]) -> str:
    """The name a union's member goes by: the default of its `kind` field."""
    info = cls.model_fields.get("kind")
    return str(info.default) if info is not None else cls.__name__


@dataclass(frozen=True)
class Parameter:
    """One parameter of a recipe."""

    name: str
    hint: Any
    default: Any
    doc: str


def parameters(recipe: Callable[..., Any]) -> dict[str, Parameter]:
    """The parameters of a recipe with resolved annotations.

    Raises:
        UserError: a parameter has no annotation, or cannot be given by name.
    """
    try:
        hints = get_type_hints(recipe, include_extras=True)
    except NameError as error:
        raise UserError(f"recipe {recipe.__name__}: an annotation names something that its file does not define at the top: {error}") from None
    docs = docstrings.argument_docs(recipe.__doc__ or "")
    found = {}
    for name, parameter in inspect.signature(recipe).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise UserError(
                f"recipe {recipe.__name__}: parameter {name!r} cannot be a flag; a recipe takes named parameters only, no *args or **kwargs"
            )
        if name not in hints:
            raise UserError(
                f"recipe {recipe.__name__}: parameter {name!r} has no type annotation; flags are read from annotations, for example {name}: int = 1"
            )
        found[name] = Parameter(name, hints[name], parameter.default, docs.get(name, ""))
    return found


def fields(recipe: Callable[..., Any]) -> dict[str, Field]:
    """Every field of a recipe by its dotted path, in the order of the signature."""
    found: dict[str, Field] = {}
    for parameter in parameters(recipe).values():
        classes = values_of(parameter.hint)
        if classes:
            for field in _of_values((parameter.name,), classes, parameter.default):
                found[field.dotted] = field
        else:
            found[parameter.name] = Field((parameter.name,), parameter.hint, parameter.default, parameter.doc, choices=choices(parameter.hint))
    return found


def _of_values(path: Path, classes: tuple[type[BaseModel], ...], default: Any) -> list[Field]:
    merged: dict[str, list[tuple[str, FieldInfo, str]]] = {}
    for cls in classes:
        docs = docstrings.field_docs(cls)
        for name, info in cls.model_fields.items():
            merged.setdefault(name, []).append((kind_of(cls), info, docs.get(name, info.description or "")))
    found = []
    for name, having in merged.items():
        kinds = tuple(kind for kind, _, _ in having) if len(classes) > 1 and len(having) < len(classes) else ()
        hints = {kind: with_limits(info) for kind, info, _ in having}
        hint = next(iter(hints.values())) if len(set(map(repr, hints.values()))) == 1 else reduce(or_, (info.annotation for _, info, _ in having))
        inner = values_of(hint)
        start = getattr(default, name, MISSING)
        if start is MISSING:
            start = having[0][1].get_default(call_default_factory=True) if not having[0][1].is_required() else MISSING
        if inner:
            found += _of_values((*path, name), inner, start)
            continue
        head = "name" if "kind" not in merged and name == "name" else "kind"
        doc = having[0][2] or ("one of " + ", ".join(map(kind_of, classes)) if name == "kind" else "")
        found.append(
            Field(
                (*path, name),
                hint,
                start,
                doc,
                kinds=kinds,
                hints=hints if len(hints) > 1 else None,
                choices=tuple(kind_of(c) for c in classes) if name == "kind" else choices(hint),
                alias=name == head,
            )
        )
    return found


def with_limits(info: FieldInfo) -> Any:
    """A field's annotation with its limits."""
    return Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation


def choices(hint: Any) -> tuple[str, ...]:
    """The values of a Literal, as text."""
    return tuple(str(value) for option in options(hint) if get_origin(option) is Literal for value in get_args(option))


def spellings(found: Mapping[str, Field]) -> dict[str, tuple[str, ...]]:
    """Dotted path -> every way to spell it, shortest first: `optimizer.lr` -> ("lr", "optimizer.lr"), `scope.kind` -> ("scope", "scope.kind")."""
    leaves = Counter(field.path[-1] for field in found.values() if not field.alias)
    tops = {field.path[0] for field in found.values()}
    spelled = {}
    for dotted, field in found.items():
        short = ".".join(field.path[:-1]) if field.alias else field.path[-1]
        unique = field.alias or (leaves[short] == 1 and (short not in tops or field.path == (short,)))
        spelled[dotted] = tuple(dict.fromkeys((short, dotted) if unique else (dotted,)))
    return spelled


# ------------------------------------------------------------------------------------------------------------------------ saying what is expected


def expected(hint: Any) -> str:
    """What an annotation takes, in words: "a whole number greater than 0, or none"."""
    words = [_kind_in_words(option) for option in options(hint)]
    limits = _limits(hint)
    text = " or ".join(dict.fromkeys(words)) + (f" {limits}" if limits else "")
    return f"{text}, or none" if allows_none(hint) else text


def _kind_in_words(option: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Any: "any value"}
    if option in names:
        return names[option]
    if get_origin(option) is Literal:
        return "one of " + ", ".join(map(str, get_args(option)))
    if _plain(option) is dict:
        return "a mapping of names to values"
    if _plain(option) in (tuple, list, set, frozenset):
        inner = [a for a in get_args(option) if a is not Ellipsis]
        return "a list" + (f" (each {_kind_in_words(inner[0])})" if inner else "")
    if isinstance(option, type) and issubclass(option, BaseModel):
        return f"the fields of {option.__name__}"
    return f"a {getattr(option, '__name__', str(option))}"


def _limits(hint: Any) -> str:
    said = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most", "multiple_of": "a multiple of"}
    found: list[str] = []
    while get_origin(hint) is Annotated:
        hint, *metadata = get_args(hint)
        for item in metadata:
            for part in [item, *getattr(item, "metadata", ())]:
                found += [f"{words} {getattr(part, key):g}" for key, words in said.items() if getattr(part, key, None) is not None]
    return " and ".join(dict.fromkeys(found))


def adapter(hint: Any) -> TypeAdapter[Any]:
    """What checks values of an annotation; numbers must be finite."""
    from pydantic import ConfigDict

    try:
        return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))
    except Exception as error:
        if type(error).__name__ != "PydanticUserError":
            raise
        return TypeAdapter(hint)  # a model carries its own configuration
