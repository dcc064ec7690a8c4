"""The shapes people have, recognised by their fields.

A shape is a name, the fields it needs (each with its usual spellings) and a converter to `Record`. Recognition takes every shape whose needed fields
are there, drops a shape whose fields are a subset of another's (prompt/completion loses against prompt/completion/label), and refuses when more than
one is left: a guess about what is trained is worth nothing. A shape is forced by name, and fields are renamed in the same string:
`"prompt_completion:prompt=query,completion=gold"`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tempering.data import convert
from tempering.data.messages import maybe_json
from tempering.data.place import Place, quote
from tempering.errors import UserError
from tempering.types import Record

Row = Mapping[str, Any]
Converter = Callable[[Row, Mapping[str, str], Place], Record]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float, str)) and not isinstance(value, bool)


def _many(value: Any) -> bool:
    return isinstance(maybe_json(value), list)


def _turns(value: Any) -> bool:
    value = maybe_json(value)
    return isinstance(value, list) and not _from(value)


def _from(value: Any) -> bool:
    value = maybe_json(value)
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping) and "from" in value[0] and "role" not in value[0]


def _said(value: Any) -> bool:
    return isinstance(value, (str, Mapping)) or (isinstance(value, list) and (not value or isinstance(value[0], Mapping)))


def _any(value: Any) -> bool:
    return True


@dataclass(frozen=True)
class Slot:
    """One role a field can play: its usual spellings, what its value must look like, and whether the shape needs it."""

    fields: tuple[str, ...]
    test: Callable[[Any], bool] = _text
    needed: bool = True


@dataclass(frozen=True)
class Shape:
    """A layout of rows: `slots` by name, and the converter to records."""

    name: str
    meaning: str
    slots: Mapping[str, Slot]
    convert: Converter
    bars: frozenset[str] = frozenset()
    """Fields whose presence says that it is something else (options of a multiple-choice question)."""
    only_with: frozenset[str] | None = None
    """For weak spellings: the other fields that may be there."""
    weak: bool = False
    """Loses against every other shape."""


@dataclass(frozen=True)
class Match:
    """A shape found in a row: slot -> field, and slots that two fields could fill."""

    shape: Shape
    fields: Mapping[str, str]
    doubles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def unused(self, row: Row) -> list[str]:
        used = set(self.fields.values())
        return [k for k in row if k not in used and k not in META and row[k] is not None]

    def convert(self, row: Row, where: Place) -> Record:
        return self.shape.convert(row, self.fields, where)


META = frozenset(("id", "idx", "index", "uuid", "_id", "prompt_id", "conversation_id", "begins", "ends"))
PLAIN = META | {"source", "category", "type", "level", "task", "subject", "split", "meta", "metadata", "lang", "language", "edge", "file", "topic"}
CHOICES = frozenset(("choices", "options", "A", "B", "C", "D", "distractor1", "correct_answer", "answerKey"))
_SYSTEM = Slot(("system", "system_prompt"), needed=False)
_TOOLS = Slot(("tools", "functions"), _any, needed=False)
_CHAT = ("messages", "conversation", "conversations", "dialogue", "dialog")
_ANSWER = ("completion", "response", "output", "answer")
_ANSWERS = frozenset((*_ANSWER, "responses", "completions", "chosen", "rejected", "target"))
"""Where one of these is of the wrong type, the row is no prompt without an answer."""
_CONTEXT = Slot(("input", "context"), needed=False)


def _make(name: str, meaning: str, convert: Converter, *, bars: frozenset[str] = frozenset(), weak: bool = False, **slots: Slot) -> Shape:
    return Shape(name, meaning, slots, convert, bars, None, weak)


SHAPES: tuple[Shape, ...] = (
    _make("messages", "a conversation with roles", convert.conversation, messages=Slot(_CHAT, _turns), system=_SYSTEM, tools=_TOOLS),
    _make("sharegpt", "a conversation with from/value", convert.conversation, messages=Slot((*_CHAT, "items"), _from), system=_SYSTEM, tools=_TOOLS),
    _make(
        "prompt_completion",
        "a prompt and the answer to it",
        convert.completion,
        prompt=Slot(("prompt",), _said),
        completion=Slot(_ANSWER, _said),
        system=_SYSTEM,
        tools=_TOOLS,
    ),
    Shape(
        "prompt_completion",
        "an input and the output for it",
        {"prompt": Slot(("input", "text", "goal", "query")), "completion": Slot(("output", "target", "labels", "gold"))},
        convert.completion,
        only_with=PLAIN,
    ),
    _make(
        "instruction",
        "an instruction, perhaps an input, and the output",
        convert.completion,
        prompt=Slot(("instruction",)),
        context=_CONTEXT,
        completion=Slot(_ANSWER),
        history=Slot(("history",), _many, needed=False),
        system=_SYSTEM,
    ),
    _make(
        "question_answer",
        "a question and its answer",
        convert.completion,
        bars=CHOICES,
        prompt=Slot(("question", "query", "Question")),
        completion=Slot(("answer", "Answer")),
        first=Slot(("context", "passage"), needed=False),
        system=_SYSTEM,
    ),
    _make(
        "pair",
        "a preferred and a rejected answer",
        convert.pair,
        chosen=Slot(("chosen", "chosen_messages", "chosen_response"), _said),
        rejected=Slot(("rejected", "rejected_messages", "rejected_response"), _said),
        prompt=Slot(("prompt", "instruction", "question", *_CHAT), _said, needed=False),
        context=_CONTEXT,
        system=_SYSTEM,
        tools=_TOOLS,
    ),
    _make(
        "unpaired",
        "an answer labelled desirable or not",
        convert.unpaired,
        prompt=Slot(("prompt", "instruction", "question"), _said),
        completion=Slot(_ANSWER, _said),
        label=Slot(("label", "kto_tag", "desirable"), _any),
        context=_CONTEXT,
        system=_SYSTEM,
    ),
    _make(
        "unpaired",
        "a conversation whose last answer is labelled desirable or not",
        convert.unpaired,
        messages=Slot(_CHAT, _many),
        label=Slot(("label", "kto_tag", "desirable"), _any),
        system=_SYSTEM,
        tools=_TOOLS,
    ),
    _make(
        "rated",
        "a prompt and several rated answers",
        convert.rated,
        prompt=Slot(("prompt", "instruction", "question"), _said),
        responses=Slot(("responses", "completions", "candidates"), _many),
        scores=Slot(("scores", "ratings", "rewards"), _many, needed=False),
        system=_SYSTEM,
    ),
    _make(
        "rated",
        "a prompt and one rated answer",
        convert.rated,
        prompt=Slot(("prompt", "instruction", "question"), _said),
        completion=Slot(_ANSWER, _said),
        score=Slot(("score", "reward", "rating"), _number),
        context=_CONTEXT,
        system=_SYSTEM,
    ),
    _make(
        "stepwise",
        "a prompt and the steps of an answer, each with its label",
        convert.stepwise,
        prompt=Slot(("prompt", "instruction", "question"), _said),
        steps=Slot(("completions", "steps"), _many),
        labels=Slot(("labels", "ratings"), _many),
        system=_SYSTEM,
    ),
    _make("text", "plain text, every token trained", convert.plain, text=Slot(("text", "content"))),
    _make(
        "prompt",
        "prompts without answers (to sample from, not for sft)",
        convert.prompt_only,
        bars=CHOICES | _ANSWERS,
        weak=True,
        prompt=Slot(("prompt", "question", "query", "instruction", *_CHAT), _said),
        context=_CONTEXT,
        system=_SYSTEM,
        tools=_TOOLS,
    ),
)
NAMES: tuple[str, ...] = tuple(dict.fromkeys(shape.name for shape in SHAPES))


@dataclass(frozen=True)
class Wish:
    """What the user asked for: a shape by name (None = recognise it), and fields by slot."""

    name: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


def parse(shape: str) -> Wish:
    """Read "auto", "pair" or "prompt_completion:prompt=query,completion=gold".

    Raises UserError for an unknown shape, slot, or a piece that is not slot=field.
    """
    name, _, rest = shape.partition(":")
    name = name.strip()
    if name not in ("auto", *NAMES):
        near = difflib.get_close_matches(name, NAMES, 1)
        raise UserError(
            f'shape "{name}" is not known' + (f' (did you mean "{near[0]}"?)' if near else "") + f"; write auto or one of: {', '.join(NAMES)}."
        )
    fields = {}
    for piece in filter(None, (p.strip() for p in rest.split(","))):
        slot, eq, to = (s.strip() for s in piece.partition("="))
        known = sorted({s for shape in SHAPES if shape.name == name for s in shape.slots})
        if not eq or slot not in known or not to:
            raise UserError(f'shape "{shape}": "{piece}" is not slot=field with a slot of {name}; its slots are: {", ".join(known) or "none"}.')
        fields[slot] = to
    return Wish(None if name == "auto" else name, fields)


def match(shape: Shape, row: Row, wish: Wish) -> Match | None:
    """The fields that fill the shape's slots, or None if a needed one is missing or looks wrong."""
    if any(row.get(bar) is not None for bar in shape.bars):
        return None
    fields, doubles = {}, {}
    for name, slot in shape.slots.items():
        spellings = (wish.fields[name],) if name in wish.fields else slot.fields
        test = _any if name in wish.fields else slot.test
        found = tuple(f for f in spellings if row.get(f) is not None and test(row[f]))
        if not found and slot.needed:
            return None
        if found:
            fields[name] = found[0]
        if len(found) > 1 and slot.needed:
            doubles[name] = found
    if shape.only_with is not None and (row.keys() - set(fields.values()) - shape.only_with):
        return None
    return Match(shape, fields, doubles)


def recognise(row: Row, where: Place, wish: Wish | None = None) -> Match:
    """The one shape of a row. Raises DataError when none fits, or when more than one does."""
    wish = wish or Wish()
    shapes = [s for s in SHAPES if wish.name in (None, s.name)]
    # a forced shape says what the row is, so bars and company do not count against it
    found = [m for s in shapes if (m := match(s if wish.name is None else _free(s), row, wish))]
    used = [set(m.fields.values()) for m in found]
    found = [m for m, mine in zip(found, used, strict=True) if not any(mine < other for other in used)]
    if any(not m.shape.weak for m in found):
        found = [m for m in found if not m.shape.weak]
    if wish.name is not None and found:
        found = sorted(found, key=lambda m: -len(m.fields))[:1]
    if len({m.shape.name for m in found}) > 1:
        options = " or ".join(f'"{m.shape.name}" ({_fields(m.fields.values())})' for m in found)
        raise where.error(f"the row could be read as {options}; say which with shape=NAME (--shape NAME)", "ambiguous")
    if not found:
        raise _none(row, where, wish)
    best = found[0]
    if best.doubles:
        slot, names = next(iter(best.doubles.items()))
        raise where.error(
            f"{_fields(names)} could each be the {slot}; say which with shape={best.shape.name}:{slot}=FIELD (--shape ...)",
            "ambiguous",
        )
    return best


def sentence(found: Match, row: Row) -> str:
    """What was recognised, in one sentence."""
    slots = ", ".join(f"{slot} = {f}" if slot != f else slot for slot, f in found.fields.items())
    unused = found.unused(row)
    return f'read as shape "{found.shape.name}" ({found.shape.meaning}: {slots})' + (
        f"; not trained on, kept as tags: {_fields(unused)}" if unused else ""
    )


def _free(shape: Shape) -> Shape:
    return Shape(shape.name, shape.meaning, shape.slots, shape.convert, frozenset(), None, shape.weak)


def _fields(names: Sequence[str] | Any) -> str:
    names = [str(n)[:40] for n in names]
    return ", ".join(f'"{n}"' for n in names[:12]) + (", ..." if len(names) > 12 else "")


def _none(row: Row, where: Place, wish: Wish) -> Exception:
    have = f"the row has the fields {_fields(row)}" if row else "the row is an empty object"
    if wish.name is None:
        odd = "".join(f' ("{k}" is {quote(v)}, not text)' for k, v in row.items() if k in _ANSWERS and not isinstance(v, str) and v is not None)
        return where.error(
            f"{have}, in which no shape is recognised{odd}; name the fields, for example "
            f"shape=prompt_completion:prompt=FIELD,completion=FIELD, or rename them to one of: {', '.join(NAMES)}",
            "no_shape",
        )
    needs = " or ".join(
        " + ".join(f'"{wish.fields.get(name, "|".join(slot.fields))}"' for name, slot in s.slots.items() if slot.needed)
        for s in SHAPES
        if s.name == wish.name
    )
    return where.error(f'{have}, but shape "{wish.name}" needs {needs}; name them with shape={wish.name}:SLOT=FIELD', "no_shape")
