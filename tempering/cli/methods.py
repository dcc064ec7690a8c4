"""What is there: `temper methods`, `schema`, and `new`, which starts a file of your own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from tempering import docstrings, index
from tempering.cli.show import say, table
from tempering.errors import UserError


def methods(*query: str) -> int:
    """List methods and recipes, by kind.

    Args:
        query: words that must occur in the name, the kind, the text or the arXiv id.
    """
    found = index.search(" ".join(query))
    if not found:
        names = [entry.name for entry in index.entries()]
        raise UserError(f"nothing matches {' '.join(query)!r}{index.closest(' '.join(query), names)}; `temper methods` lists everything")
    rows = [(row.entry.kind, row.entry.name, row.entry.summary, " ".join(row.entry.arxiv), " ".join(row.recipes)) for row in found]
    table(("kind", "name", "what it is", "arXiv", "recipe"), rows, wrap=(2, 4))
    return 0


def schema(recipe: str, /) -> int:
    """Print the JSON schema of a recipe's config file, for editors.

    Args:
        recipe: a recipe's name, or path/to/file.py:function.
    """
    say(json.dumps(json_schema(index.load_recipe(recipe)), indent=2))
    return 0


def json_schema(recipe: Any) -> dict[str, Any]:
    """The JSON schema of a recipe's values, with the fields' documentation and the short spellings."""
    from pydantic import create_model

    from tempering.cli import fields as f
    from tempering.cli.values import Signature

    signature = Signature(recipe)
    arguments = {p.name: (p.hint, ... if p.default is f.MISSING else p.default) for p in signature.parameters.values()}
    described = create_model(signature.name, **arguments).model_json_schema()  # type: ignore[call-overload]
    described["description"] = index.first_sentence(recipe.__doc__ or "")
    described["additionalProperties"] = False
    described.pop("required", None)  # a missing value may still come from a flag
    for parameter in signature.parameters.values():
        described["properties"][parameter.name].setdefault("description", parameter.doc)
        for cls in f.values_of(parameter.hint):
            _describe(described.get("$defs", {}).get(cls.__name__, {}), cls)
    for dotted, names in signature.spellings.items():
        field = signature.fields[dotted]
        if field.alias:
            name = ".".join(field.path[:-1])
            if "." not in name:
                short = {"enum": list(field.choices)} if field.choices else {"type": "string"}
                whole = {k: v for k, v in described["properties"][name].items() if k not in ("description", "default")}
                about = described["properties"][name].get("description", "")
                described["properties"][name] = {"anyOf": [whole, short], "description": about}
        elif len(names) > 1 and "." not in names[0]:
            described["properties"][names[0]] = {"description": f"{field.doc} Short for {dotted}."}
    return described


def _describe(part: dict[str, Any], cls: type) -> None:
    for name, doc in docstrings.field_docs(cls).items():
        if name in part.get("properties", {}):
            part["properties"][name]["description"] = doc


# ------------------------------------------------------------------------------------------------------------------------------- a file of one's own


def new(kind: Literal["objective", "recipe", "probe"], name: str, /, *, folder: Path = Path()) -> int:
    """Write a file to start from, with its test; nothing that exists is overwritten.

    Args:
        kind: objective, recipe or probe.
        name: of the method, in lower case with underscores; it is the file's name and, as CamelCase, the class's.
        folder: where to write it.
    """
    from tempering.cli.templates import render

    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"{name!r}: a name is lower-case letters, digits and underscores and starts with a letter, for example my_loss")
    files = {folder / path: text for path, text in render(kind, name).items()}
    for path in files:
        if path.exists():
            raise UserError(f"{path} exists already; choose another name or --folder")
    if not folder.is_dir():
        raise UserError(f"--folder {folder}: there is no such folder")
    for path, text in files.items():
        with path.open("x", encoding="utf-8") as out:
            out.write(text)
        say(f"wrote {path}")
    first = next(iter(files))
    say(f"try it: pytest {folder / f'test_{name}.py'}" + (f"   and: temper run {first}:{name} --help" if kind == "recipe" else ""))
    return 0
