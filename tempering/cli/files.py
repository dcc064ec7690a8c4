"""Config files: values for a recipe's signature, each with the line it stands on.

YAML is read as syntax nodes and given YAML 1.2's plain meaning (true and false are the only booleans, 1e-4 is a number, a date is a text), so
nothing in the file is ever constructed, and every value keeps its line. JSON is read the same way. A run folder, or its config.json, is a config
file too.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempering.errors import UserError

MAX_BYTES = 1_000_000
MAX_NODES = 20_000
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "value", "merge")}


@dataclass(frozen=True)
class Located:
    """A value and the one-based line it stands on. A mapping's value is a dict of `Located`."""

    value: Any
    line: int

    def plain(self) -> Any:
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        return [item.plain() for item in self.value] if isinstance(self.value, list) else self.value


def read_config(source: str | Path) -> tuple[Path, dict[str, Located], str | None]:
    """Read a config file.

    Returns:
        the file, its top mapping, and the recipe it names (config.json of a run does), or None.

    Raises:
        UserError: the file is missing, not text, not YAML, or not a mapping.
    """
    path = Path(source)
    if path.is_dir():
        path = path / "config.json"
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"--config {source}: there is no file {path}{_similar(path)}") from None
    except OSError as error:
        raise UserError(f"--config {source}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise UserError(f"{path}: larger than {MAX_BYTES:,} bytes; a config file holds settings, give data by --data")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} line {raw[: error.start].count(10) + 1}: not UTF-8 text; save the file as UTF-8") from None
    top = parse(text, path)
    if not isinstance(top.value, dict):
        raise UserError(f"{path} line {top.line}: expected a mapping of names to values (`lr: 1e-4`), got {_what(top.value)}")
    values, recipe = dict(top.value), None
    if "recipe" in values and isinstance(values["recipe"].value, str):
        recipe = str(values.pop("recipe").value)
        inner = values.get("values") or values.get("config")
        if inner is not None and isinstance(inner.value, dict):
            values = dict(inner.value)
    return path, values, recipe


def _similar(path: Path) -> str:
    from tempering.index import closest

    return closest(path.name, [p.name for p in path.parent.glob("*")][:1000]) if path.parent.is_dir() else ""


def _what(value: Any) -> str:
    return (
        "nothing" if value is None else {dict: "a mapping", list: "a list", str: f"the text {str(value)[:40]!r}"}.get(type(value), f"{value!r}"[:60])
    )


def parse(text: str, path: str | Path) -> Located:
    """One YAML or JSON document as located values.

    Raises:
        UserError: it is broken; the sentence names the line.
    """
    import yaml

    if str(path).endswith(".json"):
        try:
            json.loads(text)
        except ValueError as error:
            line = getattr(error, "lineno", 1)
            raise UserError(f"{path} line {line}: not valid JSON ({getattr(error, 'msg', error)}); correct it or write the values as YAML") from None
        except RecursionError:
            raise UserError(f"{path}: nested too deeply for settings") from None
        text = text.replace("\t", " ")  # YAML refuses tabs as indentation; in valid JSON a raw tab only ever is indentation
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        node = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        shown = text.splitlines()[line - 1 : line]
        tab = bool(shown) and "\t" in shown[0][: len(shown[0]) - len(shown[0].lstrip())]
        why = "a tab used for indentation; use spaces" if tab else f"not valid YAML ({error.problem or error.context})"
        raise UserError(f"{path} line {line}: {why}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())[:160]})") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply for settings") from None
    if node is None:
        raise UserError(f"{path}: the file is empty; write values such as `lr: 1e-4`, or leave --config out")
    return _located(node, path, [0])


def _located(node: Any, path: str | Path, seen: list[int]) -> Located:
    import yaml

    seen[0] += 1
    line = node.start_mark.line + 1
    if seen[0] > MAX_NODES:  # a few aliases of aliases can stand for billions of values
        raise UserError(f"{path}: more than {MAX_NODES:,} values; a config file holds settings")
    if node.tag not in _TAGS:
        raise UserError(f"{path} line {line}: the tag {node.tag[:60]} is not allowed; write plain values")
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Located] = {}
        for key_node, value_node in node.value:
            at = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise UserError(f"{path} line {at}: a key must be a name")
            key = key_node.value
            if key in values:
                raise UserError(f"{path} line {at}: {key!r} is given twice, first on line {values[key].line}; keep one")
            inner = _located(value_node, path, seen)
            values[key] = Located(inner.value, at)
        return Located(values, line)
    if isinstance(node, yaml.SequenceNode):
        return Located([_located(item, path, seen) for item in node.value], line)
    quoted = node.style in ("'", '"', "|", ">")
    return Located(node.value if quoted else scalar(node.value), line)


def scalar(text: str) -> Any:
    """A plain YAML 1.2 scalar's meaning."""
    if text in ("", "~", "null", "Null", "NULL", "none", "None"):
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if re.fullmatch(r"[-+]?[0-9]+", text):
        return int(text) if len(text) < 4000 else text
    if re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", text):
        return float(text)
    if re.fullmatch(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", text):
        return float(text.replace(".", ""))
    return text


def text_value(text: str) -> Any:
    """A value typed after a flag for a field that takes anything: a YAML scalar, list or mapping."""
    if text[:1] in "[{":
        return parse(text, "the flag's value").plain()
    return scalar(text)
