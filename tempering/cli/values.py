"""Given values laid over a recipe's defaults: what flags, config files and Python callers have in common.

Every `Given` carries the place it came from ("--lr", "my.yaml line 3 (lr)"), so that a value of the wrong kind is reported where it was written.
Later ones win: a config file first, then flags. A value of a union keeps the recipe's own defaults as long as its kind stays; another kind starts
from its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from tempering import choices, index
from tempering.cli import fields as f
from tempering.cli.files import Located, text_value
from tempering.errors import UserError
from tempering.index import closest


@dataclass(frozen=True)
class Given:
    """One value as it was given. `form` says how to take it: "text" is typed after a flag, "file" stood in a file, "python" is an object."""

    path: f.Path
    value: Any
    origin: str
    form: Literal["text", "file", "python"] = "text"


class Signature:
    """A recipe's fields with their spellings, and the way from given values to arguments."""

    def __init__(self, recipe: Callable[..., Any], spec: str = "") -> None:
        self.recipe = recipe
        self.name = recipe.__name__
        self.spec = spec or self.name
        """What a user types for it."""
        self.parameters = f.parameters(recipe)
        self.fields = f.fields(recipe)
        self.spellings = f.spellings(self.fields)
        self._by_spelling = {name: self.fields[dotted] for dotted, names in self.spellings.items() for name in names}

    @property
    def typed(self) -> str:
        """The recipe's name, or the loss's that stands for it."""
        return self.spec.replace("-", "_") if self.spec.replace("-", "_") in index.aliases() else self.name

    def find(self, name: str) -> f.Field | None:
        """The field of a spelling; hyphens and underscores are alike."""
        return self._by_spelling.get(name.replace("-", "_"))

    def known(self) -> list[str]:
        return list(self._by_spelling)

    def foreign(self, name: str) -> str:
        """Which other losses have a field of this name, as a hint; "" where none has."""
        found = [cls for parameter in self.parameters.values() for cls in f.values_of(parameter.hint)]
        return choices.having(found, name.replace("-", "_").rpartition(".")[2])

    def refused(self, arguments: Mapping[str, Any]) -> None:
        """Let every loss that was given values look at them, as it will before training.

        Raises:
            UserError: one refuses them.
        """
        for value in arguments.values():
            if isinstance(value, choices.Choice) and value.refuses and value != type(value)():
                value.build()

    # ------------------------------------------------------------------------------------------------------------------------------- reading

    def from_config(self, path: Path, values: Mapping[str, Located]) -> list[Given]:
        """The values of a config file, each with its line.

        Raises:
            UserError: a key is unknown, or ambiguous.
        """
        return [given for key, item in values.items() for given in self._walk((), key, item, str(path))]

    def _walk(self, above: f.Path, key: str, item: Located, file: str) -> Iterable[Given]:
        dotted = ".".join((*above, key.replace("-", "_")))
        place = f"{file} line {item.line}" if item.line else ""
        origin = f"{place} ({'.'.join((*above, key))})" if place else dotted
        spelled = self.fields.get(dotted) if above else self._by_spelling.get(dotted)
        deeper = any(name.startswith(dotted + ".") for name in self.fields)
        if deeper and item.value is None:
            return  # `training:` with every line below it commented out
        if deeper and isinstance(item.value, dict):
            for inner, value in item.value.items():
                yield from self._walk(tuple(dotted.split(".")), inner, value, file)
        elif spelled is not None:
            yield Given(spelled.path, item.plain(), origin, "file" if item.line else "python")
        elif deeper:
            raise UserError(f"{origin}: expected a mapping with {', '.join(self._below(dotted))}")
        elif (owner := self._dict_above(dotted)) is not None:
            yield Given((*owner.path, key.split(".")[-1]), item.plain(), origin, "file" if item.line else "python")
        else:
            among = [name.rpartition(".")[2] for name in self._below(".".join(above))] if above else self.known()
            what = f"{place}: unknown key" if place else f"recipe {self.name} has no argument"
            raise UserError(f"{what} {'.'.join((*above, key))!r}{self._hint(key, dotted, among)}")

    def _hint(self, key: str, dotted: str, among: list[str]) -> str:
        same = [name for name in self.fields if name.rpartition(".")[2] == dotted.rpartition(".")[2]]
        if same:
            return f"; did you mean {' or '.join(map(repr, same))}?"
        if others := self.foreign(key):
            return others
        return closest(key, among) or closest(key, self.known()) or f"; there are: {', '.join(among)}"

    def _below(self, dotted: str) -> list[str]:
        return [name for name in self.fields if not dotted or name.startswith(dotted + ".")]

    def _dict_above(self, dotted: str) -> f.Field | None:
        return next((field for name, field in self._by_spelling.items() if field.is_dict and dotted.startswith(name + ".")), None)

    def from_python(self, values: Mapping[str, Any]) -> list[Given]:
        """Keyword arguments of `tp.run`: parameters by name, with objects, mappings or short spellings (`scope="lora"`, `lr=1e-4`).

        Raises:
            UserError: a name is unknown.
        """
        found: list[Given] = []
        for name, value in values.items():
            if name in self.parameters and f.values_of(self.parameters[name].hint) and not isinstance(value, dict | str):
                found.append(Given((name,), value, name, "python"))
            else:
                found += self._walk((), name.replace("__", "."), _located(value), "")
        return found

    # ----------------------------------------------------------------------------------------------------------------------------- resolving

    def resolve(self, given: Iterable[Given]) -> dict[str, Any]:
        """The recipe's arguments: its defaults with the given values over them, checked.

        Raises:
            UserError: a value is of the wrong kind, outside its limits, belongs to another kind of the union, or is missing.
        """
        latest: dict[f.Path, Given] = {}
        given = list(given)
        for one in _without_replaced(given):
            latest.pop(one.path, None)
            latest[one.path] = one
        # What a flag overrides must be right all the same: a mistake in a file is not found only when the flag is left out.
        for one in given:
            field = self.fields.get(".".join(one.path))
            if field is not None and latest.get(one.path) is not one:
                check(one, Literal[field.choices] if field.path[-1] == "kind" else field.hint)
        arguments = {}
        overrides: Mapping[str, Any] = {}
        # An objective first: its file may set other defaults of the recipe.
        for name, parameter in sorted(self.parameters.items(), key=lambda item: not _is_choice(item[1].hint)):
            default = choices.over(parameter.default, name, overrides)
            mine = {path: one for path, one in latest.items() if path[0] == name}
            classes = f.values_of(parameter.hint)
            if classes:
                arguments[name] = self._value((name,), classes, default, mine)
                overrides = getattr(arguments[name], "overrides", overrides)
                continue
            arguments[name] = self._leaf(self.fields[name], self.fields[name].hint, default, mine)
            if arguments[name] is f.MISSING:
                raise UserError(f"--{name.replace('_', '-')} is required: {parameter.doc or f.expected(parameter.hint)}")
        return {name: arguments[name] for name in self.parameters}

    def _value(self, path: f.Path, classes: tuple[type[BaseModel], ...], default: Any, given: Mapping[f.Path, Given]) -> Any:
        whole = given.get(path)
        if whole is not None:
            whole = replace(whole, value=choices.value(whole.value))  # an objective's dataclass instance
            if not isinstance(whole.value, classes) and not (whole.value is None and f.allows_none(self.parameters[path[0]].hint)):
                raise UserError(f"{whole.origin}: expected a {' or '.join(c.__name__ for c in classes)}, got {whole.value!r}")
            default, given = whole.value, {p: one for p, one in given.items() if p != path}
        if not given and default is not f.MISSING:
            return default
        cls, chosen = self._member(path, classes, default, given)
        start = default if isinstance(default, cls) else None
        values: dict[str, Any] = {}
        for name, info in cls.model_fields.items():
            inside = (*path, name)
            mine = {p: one for p, one in given.items() if p[: len(inside)] == inside}
            begin = getattr(start, name) if start is not None else (f.MISSING if info.is_required() else info.get_default(call_default_factory=True))
            inner = f.values_of(info.annotation)
            if name == "kind":
                values[name] = f.kind_of(cls)
            elif inner:
                values[name] = self._value(inside, inner, begin, mine)
            else:
                field = self.fields[".".join(inside)]
                values[name] = self._leaf(field, (field.hints or {}).get(f.kind_of(cls), field.hint), begin, mine)
            if values[name] is f.MISSING:
                raise UserError(f"--{'.'.join(inside)} is required{' for ' + chosen if chosen else ''}: {f.expected(info.annotation)}")
        for p, one in given.items():
            if p[len(path)] not in cls.model_fields:
                owners = self.fields[".".join(p[: len(path) + 1])].kinds
                name = ".".join(path)
                raise UserError(
                    f"{one.origin}: belongs to {name} {' or '.join(owners)}, but {name} is {chosen}; set {name} to {owners[0]} or leave it out"
                )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            place = next((one.origin for p, one in given.items() if p[len(path) :][:1] == first["loc"][:1]), "--" + ".".join(path))
            raise UserError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from None

    def _member(self, path: f.Path, classes: tuple[type[BaseModel], ...], default: Any, given: Mapping[f.Path, Given]) -> tuple[type[BaseModel], str]:
        named = given.get((*path, "kind"))
        kinds = {f.kind_of(cls): cls for cls in classes}
        if named is None:
            cls = type(default) if isinstance(default, classes) else classes[0]
        elif str(named.value) in kinds:
            cls = kinds[str(named.value)]
        else:
            near = choices.elsewhere(str(named.value)) if issubclass(classes[0], choices.Choice) else ""
            raise UserError(f"{named.origin}: expected one of {', '.join(kinds)}, got {named.value!r}{near or closest(str(named.value), kinds)}")
        return cls, f.kind_of(cls) if len(classes) > 1 else ""

    def _leaf(self, field: f.Field, hint: Any, default: Any, given: Mapping[f.Path, Given]) -> Any:
        value = default
        for path, one in given.items():
            if path == field.path:
                value = check(one, hint)
            else:  # a key of a dict field
                inner = one.value if one.form != "text" else text_value(str(one.value))
                value = {**(value or {}), ".".join(path[len(field.path) :]): inner}
        return value


def _is_choice(hint: Any) -> bool:
    return any(issubclass(cls, choices.Choice) for cls in f.values_of(hint))


def _without_replaced(given: Sequence[Given]) -> list[Given]:
    """Without a file's fields of a value whose kind a flag changes: `--config run --scope full` replaces the file's scope as a whole."""
    in_file = {one.path: one.value for one in given if one.form == "file" and one.path[-1] == "kind"}
    changed = [one.path[:-1] for one in given if one.form != "file" and one.path in in_file and in_file[one.path] != one.value]
    return [one for one in given if one.form != "file" or not any(one.path[: len(path)] == path for path in changed)]


def _located(value: Any) -> Located:
    if isinstance(value, dict):
        return Located({str(key): _located(inner) for key, inner in value.items()}, 0)
    return Located([_located(item) for item in value] if isinstance(value, list) else value, 0)


def check(given: Given, hint: Any) -> Any:
    """The value of one field, of the right kind.

    Raises:
        UserError: it is not; the sentence names the place, what was expected, and what was given.
    """
    value = given.value
    adapter = f.adapter(hint)
    try:
        if given.form == "python":
            return adapter.validate_python(value)
        if given.form == "file":
            return adapter.validate_json(json.dumps(value), strict=True)
        return adapter.validate_python(_from_text(value, hint))
    except ValidationError as error:
        first = error.errors()[0]
        custom = f" ({first['msg'].removeprefix('Value error, ')})" if first["type"] in ("value_error", "assertion_error") else ""
        at = f" in element {first['loc'][0] + 1}" if first["loc"] and isinstance(first["loc"][0], int) else ""
        shown = repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."
        near = closest(str(value), f.choices(hint)) if f.choices(hint) else ""
        raise UserError(f"{given.origin}: expected {f.expected(hint)}, got {shown}{at}{custom}{near}") from None


def _from_text(value: Any, hint: Any) -> Any:
    if value in ("none", "null") and f.allows_none(hint):
        return None
    kinds = f.options(hint)
    if isinstance(value, str) and str not in kinds and any(f._plain(kind) in (dict, list, tuple, set, frozenset) or kind is Any for kind in kinds):
        return text_value(value)
    return value


def jsonable(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Resolved arguments as plain JSON values: what config.json holds."""
    from pydantic_core import to_jsonable_python

    return {name: to_jsonable_python(value) for name, value in arguments.items()}
