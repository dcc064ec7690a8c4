"""Names and numbers of a plain text, found by a pattern, and questions that the text itself answers."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

_ENTITY = re.compile(r"(?<!\w)(?:[A-ZÀ-ÖØ-Þ][\w'-]*(?: [A-ZÀ-ÖØ-Þ][\w'-]*)*|\d(?:[\d,.]*\d)?)(?!\w)")
_STARTS = re.compile(
    r"(?:A|An|The|This|That|These|Those|I|You|He|She|It|We|They|My|Your|His|Her|Its|Our|Their|There|In|On|At|By|For|From|To|With|Of|After|Before|"
    r"When|While|As|If|But|And|Or|So|Since|During|Some|Many|Most|All|Both|Who|What|Where|How|Why|Not|No|Yes)(?: |$)"
)
"""English words that have a capital only because a sentence begins with them."""


def sentences(text: str) -> list[str]:
    """The lines of a text, parted after full stops, question and exclamation marks."""
    return [piece.strip() for piece in re.split(r"(?<=[.!?])\s+|\n+", text) if piece.strip()]


def entities(text: str) -> list[str]:
    """Names (words with capitals, those side by side together) and numbers of a text, each once, in order.

    One word that begins a sentence counts only where the text begins with it or it stands within a sentence too.
    """
    found = [(i == start == 0, start, name) for i, sentence in enumerate(sentences(text)) for start, name in _spans(sentence)]
    sure = {name for first, start, name in found if first or start or " " in name or name[0].isdigit()}
    return list(dict.fromkeys(name for _, _, name in found if name in sure))


def inside(sentence: str, names: Iterable[str]) -> list[str]:
    """The names that stand in a sentence."""
    here = {name for _, name in _spans(sentence)}
    return [name for name in names if name in here]


def swap(sentence: str, name: str, other: str) -> str:
    """The sentence with something else wherever the name stands."""
    for start, found in reversed(_spans(sentence)):
        if found == name:
            sentence = f"{sentence[:start]}{other}{sentence[start + len(name) :]}"
    return sentence


def bullets(lines: Iterable[str]) -> str:
    """Lines with a dash before each."""
    return "\n".join(f"- {line}" for line in lines)


def items(task: str, text: str, draw: random.Random, each: int, options: int) -> Iterator[tuple[str, str]]:
    """(question, answer) of a task; none where the text does not allow it."""
    said, names = sentences(text), entities(text)
    listed = ", ".join(names)
    if task == "gist" and len(said) > 1:
        yield f"{text}\n\nWhat is this text about?", said[0]
    elif task == "entities" and names:
        yield f"{text}\n\nList the names and numbers in this text.", listed
    elif task == "tell" and names:
        yield f"Tell me about {names[0]}.", text
    elif task == "flashcards" and len(names) > 1:
        yield f"Write down what you know of {names[0]}, with these keywords: {listed}.", text
    elif task in ("inference", "cloze", "choice", "completion"):
        made_of = (_on_sentence(task, text, sentence, names, draw, options) for sentence in draw.sample(said, len(said)))
        yield from islice(filter(None, made_of), each)


def _on_sentence(task: str, text: str, sentence: str, names: Sequence[str], draw: random.Random, options: int) -> tuple[str, str] | None:
    """(question, answer) on one sentence of a text: completion, cloze, choice or inference; None where the sentence does not allow it."""
    words = sentence.split(" ")
    if task == "completion":
        start = " ".join(words[: len(words) // 2])
        return (f"Complete the sentence: {start}", sentence[len(start) + 1 :]) if len(words) > 3 else None
    here = inside(sentence, names)
    if not here:
        return None
    gold = draw.choice(here)
    blank = swap(sentence, gold, "____")
    if task == "cloze":
        return f"Fill in the blank: {blank}", gold
    others = [name for name in names if name not in here and name[0].isdigit() == gold[0].isdigit()]
    others = draw.sample(others, len(others))
    if task == "choice":
        shown = [gold, *others[: options - 1]]
        return (f"Which fills the blank? {blank}\n{bullets(draw.sample(shown, len(shown)))}", gold) if others else None
    both = [sentence, *islice((false for other in others if (false := swap(sentence, gold, other)) not in text), 1)]
    return (f"{text}\n\nWhich of these does the text say?\n{bullets(draw.sample(both, 2))}", sentence) if len(both) == 2 else None


def _spans(sentence: str) -> list[tuple[int, str]]:
    spans: list[tuple[int, str]] = []
    for match in _ENTITY.finditer(sentence):
        start, name = match.start(), match[0]
        if start == 0 and (first := _STARTS.match(name)):
            start, name = first.end(), name[first.end() :]
        if name:
            spans.append((start, name))
    return spans
