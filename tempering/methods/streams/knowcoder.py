"""KnowCoder: extract knowledge by writing objects of Python classes.

Li et al. 2024, arXiv 2403.07969. A schema is shown as classes (inheritance, typed fields, docstrings). Phase 0, understanding: the definition of each
class with instances of it, as plain code. Phase 1, following: classes and a text -> results = [Person(name='Ann'), ...], and negative samples, which
ask for a class that the text has nothing of -> results = []. A record is a plain text with two fields: "schema", a list of {"name", "base", "doc",
"fields": {name: type}} (types: str, int, float, bool or a class), and "objects", a list of {"type": class, field: value, ...}; all classes of its
schema count as annotated. Data sets are aligned by giving them one schema. Gold objects that break a declared type are refused; `_classes.extract`
reads an answer back through its syntax tree and never runs it. Not the paper's: fields are annotations, not arguments of __init__; the prompt's
words; how many instances and negatives there are (not checked); no examples in the docstrings unless the schema has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from tempering.cases import RecordCase, plain, talk
from tempering.errors import UserError
from tempering.making import Maker, Making, answer, best, is_text, made, spoken, tag, user, written
from tempering.methods.streams import _classes
from tempering.methods.streams._classes import Kind
from tempering.types import Record

FAMILY = "lessons"
CATALOGUE = ("S196",)


class KnowCoder(Maker):
    """Classes with instances, then extraction."""

    kind: Literal["knowcoder"] = "knowcoder"
    understanding: bool = True
    """Whether phase 0 is trained."""
    instances: Annotated[int, Field(ge=0)] = 10
    """Most instances of a class that are shown in phase 0 (ours)."""
    negatives: Annotated[int, Field(ge=0)] = 1
    """Most negative samples of a sentence (ours)."""

    held = "made"

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """The classes, then for each sentence its objects and its negative samples.

        Raises:
            UserError: a record has no schema or objects, or they do not fit.
        """
        read = [(record, *_known(record)) for record in records]
        seen: dict[Kind, list[tuple[Record, str]]] = {}
        for record, schema, objects in read:
            for kind in schema.values():
                seen.setdefault(kind, []).extend([(record, "")])
                seen[kind] += [(record, _classes.express(thing)) for thing in _parts(objects) if thing["type"] == kind.name]
        for kind, shown in seen.items() if self.understanding else ():
            code = list(dict.fromkeys(text for _, text in shown if text))[: self.instances]
            of = [record for record, text in shown if text in code]
            yield made(shown[0][0], f"class-{kind.name}", (), [written("\n".join([_classes.write([kind]), "", *code]))], of=of, phase=0)
        for record, schema, objects in read:
            yield _asked(record, "", list(schema), schema, objects)
            used = {kind.name for thing in _parts(objects) for kind in _classes.lineage(thing["type"], schema)}
            absent = [name for name in schema if name not in used]
            for name in making.random(record.id).sample(absent, min(self.negatives, len(absent))):
                yield _asked(record, f"no-{name}", [name], schema, [])


def _asked(record: Record, what: str, names: list[str], schema: Mapping[str, Kind], objects: list[dict[str, Any]]) -> Record:
    shown = _classes.write(_classes.closure(names, schema))
    text = f"{shown}\n\n# Extract every {', '.join(names)} from this text.\ntext = {spoken(best(record).messages)!r}"
    return made(record, what, (user(text),), [answer(_classes.results(objects))], phase=1)


def _parts(objects: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for thing in objects:
        yield thing
        yield from _parts(value for value in thing.values() if isinstance(value, dict))


def _known(record: Record) -> tuple[dict[str, Kind], list[dict[str, Any]]]:
    where = record.source or record.id
    if not is_text(record):
        raise UserError(f'{where}: knowcoder needs plain texts (a field "text"), but this is a conversation')
    for name in ("schema", "objects"):
        tag(record, name)
    try:
        kinds = [Kind(k["name"], k.get("base", ""), k.get("doc", ""), tuple(dict(k.get("fields", {})).items())) for k in record.tags["schema"]]
        schema = _classes.checked(kinds)
        return schema, [_classes.fitting(thing, schema) for thing in record.tags["objects"]]
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except (TypeError, KeyError, ValueError, AttributeError):
        raise UserError(f'{where}: "schema" must be a list of {{"name", "base", "doc", "fields": {{name: type}}}}, "objects" a list') from None


_SCHEMA = [{"name": "Person", "doc": "Who.", "fields": {"name": "str"}}, {"name": "City", "fields": {"mayor": "Person"}}]
_PERSON, _CITY = "class Person:\n    'Who.'\n    name: str", "class City:\n    mayor: Person"
_ASK = "{}\n\n# Extract every {} from this text.\ntext = 'Ann sings.'"
_ANN = plain("Ann sings.", schema=_SCHEMA, objects=[{"type": "Person", "name": "Ann"}])
_FOUND = talk(_ASK.format(f"{_PERSON}\n\n{_CITY}", "Person, City"), "results = [Person(name='Ann')]")
_NONE = talk(_ASK.format(f"{_PERSON}\n\n{_CITY}", "City"), "results = []")
CASES = (
    RecordCase("only following, without negatives", KnowCoder(understanding=False, negatives=0), [_ANN], [_FOUND], tags=({"phase": 1},)),
    RecordCase(
        "classes with instances come first; then what is there, and what is not",
        KnowCoder(),
        [_ANN],
        [plain(f"{_PERSON}\n\nPerson(name='Ann')"), plain(f"{_CITY}\n"), _FOUND, _NONE],
        tags=({"phase": 0}, {"phase": 0}, {"phase": 1}, {"phase": 1}),
    ),
)
