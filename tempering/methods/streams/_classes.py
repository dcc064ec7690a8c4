"""A schema as Python classes, and objects of it as code: written, read back through the syntax tree, and checked. Nothing that is read is run.

A schema is a dict from class name to `Kind`, in any order. An object is a dict with its class under "type" and its fields, where a field's type is
str, int, float, bool or a class of the schema.
"""

from __future__ import annotations

import ast
import keyword
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tempering.errors import UserError

PLAIN = {"str": str, "int": int, "float": float, "bool": bool}


@dataclass(frozen=True)
class Kind:
    """A class of a schema."""

    name: str
    base: str = ""
    """The class that it derives from; "" for none."""
    doc: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    """(name, type) of its own fields."""


def checked(kinds: Iterable[Kind]) -> dict[str, Kind]:
    """A schema by name.

    Raises:
        UserError: a name is no Python name or stands twice, a base or a type is not known, or a class derives from itself.
    """
    kinds = list(kinds)
    schema = {kind.name: kind for kind in kinds}
    for kind in kinds:
        fields = [name for name, _ in kind.fields]
        for name in (kind.name, *fields):
            if not name.isidentifier() or keyword.iskeyword(name) or name in (*PLAIN, "type"):
                raise UserError(f"schema: {name!r} cannot name a class or a field; use a Python name other than str, int, float, bool and type")
        for name in (*filter(None, [kind.base]), *(one for _, one in kind.fields if one not in PLAIN)):
            if name not in schema:
                raise UserError(f"schema: {kind.name} needs {name!r}, which is no class of the schema; add it, or use str, int, float or bool")
        if len(schema) < len(kinds) or len(set(fields)) < len(fields) or kind in lineage(kind.base, schema):
            raise UserError(f"schema: {kind.name}: a class or field stands twice, or a class derives from itself; name each once")
    return schema


def lineage(name: str, schema: Mapping[str, Kind]) -> list[Kind]:
    """A class and what it derives from, itself first."""
    found: list[Kind] = []
    while name in schema and schema[name] not in found:
        found.append(schema[name])
        name = found[-1].base
    return found


def closure(names: Iterable[str], schema: Mapping[str, Kind]) -> list[Kind]:
    """The classes of these names with all that their definitions mention, in the schema's order."""
    todo, found = list(names), set[str]()
    while todo:
        if (name := todo.pop()) in schema and name not in found:
            found.add(name)
            todo += [schema[name].base, *(one for _, one in schema[name].fields)]
    return [kind for kind in schema.values() if kind.name in found]


def write(kinds: Iterable[Kind]) -> str:
    """Class definitions, an empty line between two."""
    return "\n\n".join("\n    ".join([f"class {k.name}{f'({k.base})' if k.base else ''}:", *(_body(k) or ["pass"])]) for k in kinds)


def _body(kind: Kind) -> list[str]:
    return [*([repr(kind.doc)] if kind.doc else []), *(f"{name}: {one}" for name, one in kind.fields)]


def _tree(code: str) -> list[ast.stmt]:
    try:
        return ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"this is no Python code ({type(error).__name__}): {code[:60]!r}") from None


def read(code: str) -> list[Kind]:
    """The classes that code defines.

    Raises:
        UserError: it is not code, or holds more than classes with a docstring and annotated fields.
    """
    kinds = []
    for node in _tree(code):
        match node:
            case ast.ClassDef(name=name, bases=[] | [ast.Name()], keywords=[], decorator_list=[]) if not getattr(node, "type_params", ()):
                base, doc, fields = "".join(b.id for b in node.bases if isinstance(b, ast.Name)), ast.get_docstring(node, clean=False) or "", []
                for line in node.body[1 if doc else 0 :]:
                    match line:
                        case ast.AnnAssign(target=ast.Name(id=field), annotation=ast.Name(id=one), value=None):
                            fields.append((field, one))
                        case ast.Pass():
                            pass
                        case _:
                            raise UserError(f"line {line.lineno}: a class may have a docstring and fields (name: type), nothing else")
                kinds.append(Kind(name, base, doc, tuple(fields)))
            case _:
                raise UserError(f"line {node.lineno}: only classes with at most one base may stand here")
    return kinds


def express(thing: Any) -> str:
    """An object as code: Person(name='Ann'); a plain value as it is written."""
    if isinstance(thing, Mapping):
        return f"{thing['type']}({', '.join(f'{name}={express(value)}' for name, value in thing.items() if name != 'type')})"
    return repr(thing)


def results(objects: Iterable[Any]) -> str:
    """The answer of an extraction: results = [...]."""
    return f"results = [{', '.join(map(express, objects))}]"


def extract(code: str, schema: Mapping[str, Kind]) -> list[dict[str, Any]]:
    """The objects of an answer, checked.

    Raises:
        UserError: it is no such answer, or an object is not of the schema.
    """
    match _tree(code):
        case [ast.Assign(targets=[ast.Name(id="results")], value=ast.List(elts=found))]:
            return [fitting(_object(node), schema) for node in found]
    raise UserError(f"the answer must be results = [...], not {code[:60]!r}")


def _object(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Call(func=ast.Name(id=name), args=[], keywords=pairs) if all(p.arg not in (None, "type") for p in pairs):
            return {"type": name, **{str(p.arg): _object(p.value) for p in pairs}}
    raise UserError(f"column {node.col_offset}: only Class(field=value, ...) and plain values may stand here")


def fitting(thing: Any, schema: Mapping[str, Kind], wanted: str = "") -> dict[str, Any]:
    """An object whose fields have the types that its class declares; of the class `wanted`, or derived from it, where that is given.

    Raises:
        UserError: it has not.
    """
    name = thing.get("type") if isinstance(thing, Mapping) else None
    kinds = lineage(name, schema) if isinstance(name, str) else []
    if not isinstance(thing, Mapping) or not kinds or (wanted and wanted not in [kind.name for kind in kinds]):
        raise UserError(f"{str(thing)[:60]!r} is no object of {wanted or 'a class of the schema'}")
    types = dict(pair for kind in reversed(kinds) for pair in kind.fields)
    for field, value in thing.items():
        if field == "type":
            continue
        if field not in types:
            raise UserError(f"{name} has no field {field!r}; its fields: {', '.join(types) or 'none'}")
        if types[field] not in PLAIN:
            fitting(value, schema, types[field])
        elif type(value) is not PLAIN[types[field]] or value in (float("inf"), -float("inf")) or value != value:
            raise UserError(f"{name}.{field} must be {types[field]}, not {value!r}")
    return dict(thing)
