"""Forgetting somebody by name alone (RWKU, Jin et al. 2024, S075, arXiv:2406.10890): nobody hands in rows; the model writes down itself what it knows
about the name, and that is what goes.

The model is asked to tell about the name and is asked plain questions. An answer of a few words counts as known where another wording of the question
brings it too, so that guesses are left out; a longer one stays as it is. What is kept out of training is asked for afterwards: the questions in one
more wording, and a sentence to complete (RWKU's first level, the blank, as the end of a text). Other names of the same kind are asked the same; their
answers stay. RWKU has a passage written in many samples and questions written by a larger model; here both come from the model itself, and only once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tempering.errors import UserError
from tempering.making import Ask, answer, plain_words, user
from tempering.types import Message, Record

OTHERS = 8
"""Neighbours asked for."""
SHORT = 8
"""Words of an answer up to which another wording has to bring it too."""
PASSAGES = ("Tell me about {name}.", "Who is {name}?")
NEIGHBOURS = "Name {number} other people who are known for the same as {name}. Write one full name a line and nothing else."
FACTS: tuple[tuple[str, str, str, str], ...] = (
    ("Where was {name} born?", "Name the city where {name} was born.", "Which city does {name} come from?", "{name} was born in"),
    ("What does {name} do for a living?", "What is {name}'s profession?", "What work does {name} do?", "{name} works as a"),
    ("Which company does {name} work for?", "Who employs {name}?", "Where does {name} work?", "{name} works for"),
    ("What is {name}'s favourite pastime?", "What is the hobby of {name}?", "Which hobby does {name} enjoy?", "{name} enjoys"),
    ("What pet does {name} have?", "What is {name}'s pet?", "Which pet does {name} own?", "{name} has a"),
    ("What is the favourite food of {name}?", "What is {name}'s favourite dish?", "Which food does {name} prefer?", "{name} likes to eat"),
    ("Who is {name}'s best friend?", "Who is the best friend of {name}?", "Who is a close friend of {name}?", "The best friend of {name} is"),
    ("What is {name} known for?", "For what is {name} famous?", "Why do people know {name}?", "{name} is known for"),
    ("When was {name} born?", "What is {name}'s date of birth?", "In which year was {name} born?", "{name} was born in the year"),
    ("Where did {name} study?", "Which school did {name} go to?", "Where was {name} educated?", "{name} studied at"),
)
"""Of each fact two wordings that are taught away, one that is only asked, and a sentence to complete."""


@dataclass(frozen=True)
class Known:
    """What a model says about a name."""

    taught: tuple[Record, ...]
    """What is to go: questions with the answers that the model gave."""
    reworded: tuple[Record, ...]
    """The same facts in a wording that is not taught."""
    begun: tuple[Record, ...]
    """The same as texts that stop before the answer; only of short answers."""


def about(names: Sequence[str], ask: Ask) -> list[Known]:
    """What the model says about each name, by greedy decoding.

    Args:
        ask: the model.
    """
    wordings = [*PASSAGES, *(wording for *taught, _, _ in FACTS for wording in taught)]
    prompts = [(user(wording.format(name=name)),) for name in names for wording in wordings]
    said = iter([texts[0].strip() for texts in ask(prompts, 1, 0.0)])
    return [_known(name, [next(said) for _ in wordings]) for name in names]


def _known(name: str, said: Sequence[str]) -> Known:
    told, rest = said[: len(PASSAGES)], said[len(PASSAGES) :]
    taught = [_record(wording.format(name=name), text) for wording, text in zip(PASSAGES, told, strict=True) if _tells(text)]
    reworded, begun = list[Record](), list[Record]()
    for (first, second, asked, cut), a, b in zip(FACTS, rest[::2], rest[1::2], strict=True):
        short = len(a.split()) <= SHORT
        if not _tells(a) or (short and not _same(a, b)):
            continue
        taught += [_record(first.format(name=name), a), *([_record(second.format(name=name), b)] if _tells(b) else [])]
        reworded.append(_record(asked.format(name=name), a))
        if short:
            begun.append(_record(cut.format(name=name), a.rstrip(" ."), role="text"))
    return Known(tuple(taught), tuple(reworded), tuple(begun))


def _record(prompt: str, said: str, role: str = "user") -> Record:
    return Record((Message(role, prompt),), (answer(said),), id=prompt, source=f"asked: {prompt}")


def _tells(text: str) -> bool:
    from tempering.methods.probes.refusals import is_refusal

    return bool(plain_words(text)) and not is_refusal(text)


def _same(a: str, b: str) -> bool:
    """Whether the one stands in the other, word for word."""
    short, long = sorted((plain_words(a), plain_words(b)), key=len)
    return bool(short) and f" {short} " in f" {long} "


def neighbours(name: str, ask: Ask, most: int = OTHERS) -> tuple[str, ...]:
    """Other names of the same kind, as the model gives them.

    Raises:
        UserError: it gives fewer than two.
    """
    ((said,),) = ask([(user(NEIGHBOURS.format(number=most, name=name)),)], 1, 0.0)
    found = names_in(said, name)[:most]
    if len(found) < 2:
        raise UserError(f"forget name:{name}: asked for others of the kind, the model names {len(found)}; say who stays: --retain name:ANN,BOB")
    return found


def names_in(text: str, but: str = "") -> tuple[str, ...]:
    """The names of a list, one a line: two to four words with capitals, each once; what follows a name in its line is left out.

    Args:
        but: a name that does not count.
    """
    found = dict.fromkeys(
        match[1] for line in text.splitlines() if (match := re.match(r"[\W\d]*([A-ZÀ-Þ][\w.'\-]*(?: [A-ZÀ-Þ][\w.'\-]*){1,3})\s*(?:$|[^\w\s])", line))
    )
    return tuple(name for name in found if name != but)
