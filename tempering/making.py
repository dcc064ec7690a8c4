"""Records made of records: what the methods under methods/streams share.

A paper whose idea lies in the data is a `Maker`: a value that turns the records a user has into those that a loss sees: demonstrations
(`FAMILY = "lessons"`, run by `teach`) or pairs (`FAMILY = "comparisons"`, run by `teach_pairs`). It is a function of the records, its fields and the
seed alone; where it needs answers of the model itself it gets them through `Making.ask`, and marks of answers through `Making.judge`. Every record
that goes in is found again: its id stands in the "made_of" tag of what was made, or it was dropped with a reason. Makers of the family "rounds" (run
by `in_rounds`) make pairs anew every few steps, of the answers of the model as it is by then; what they keep in between stands in `Making.memory`. No
torch here.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from tempering.config import Value
from tempering.errors import UserError
from tempering.types import Message, Record, Response

MADE_OF = "made_of"
"""Tag of a made record: the ids of the records it was made of."""
PHASE = "phase"
"""Tag of a made record: when it is trained, 0 first; absent is 0."""

Ask = Callable[[Sequence[tuple[Message, ...]], int, float], list[list[str]]]
"""(prompts, answers to each, temperature) -> the model's answers, by prompt."""
Judge = Callable[[str, Sequence[tuple[Message, ...]], Sequence[str]], Sequence[float]]
"""(which judge, prompts, an answer to each) -> marks, higher is better."""


@dataclass
class Making:
    """What a maker may use, and where it says what it left out."""

    seed: int = 0
    asked: Ask | None = None
    """The model; None where no method needs one."""
    judged: Judge | None = None
    """Who marks answers; None where no method needs marks."""
    taught: Ask | None = None
    """A teacher beside the model that is asked; None where there is none."""
    memory: dict[str, Any] = field(default_factory=dict)
    """What a method keeps from round to round: JSON-able, empty before the first; changed in place."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Reason -> how many records."""
    lost: dict[str, str] = field(default_factory=dict)
    """Id of a dropped record -> why."""

    def random(self, *key: object) -> random.Random:
        """A generator of its own for a key, so that what is drawn for a record does not depend on the others."""
        digest = hashlib.sha256(repr((self.seed, *key)).encode()).digest()
        return random.Random(int.from_bytes(digest[:8], "big"))

    @staticmethod
    def word(text: str) -> int:
        """A number for a word, the same in every process."""
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")

    def ask(self, prompts: Sequence[tuple[Message, ...]], n: int = 1, temperature: float = 0.0) -> list[list[str]]:
        """The model's own answers to each prompt, stripped.

        Raises:
            UserError: there is no model to ask.
        """
        if self.asked is None:
            raise UserError("this method needs the model's own answers; run it with a model (temper run), or give Making(asked=...)")
        return [[text.strip() for text in texts] for texts in self.asked(prompts, n, temperature)]

    def judge(self, name: str, prompts: Sequence[tuple[Message, ...]], answers: Sequence[str]) -> list[float]:
        """What the judge of this name, a reward model, gives each answer.

        Raises:
            UserError: there is none to ask.
        """
        if self.judged is None:
            raise UserError(f"this method needs the marks of {name}; run it (temper run), or give Making(judged=...)")
        return [float(mark) for mark in self.judged(name, prompts, answers)]

    def drop(self, record: Record, reason: str) -> None:
        """Leave a record out, and say why."""
        self.dropped[reason] += 1
        self.lost[record.id] = reason


class Maker(Value):
    """Base of the methods under methods/streams: a frozen value with the paper's defaults and a `kind`, the file's name."""

    held: ClassVar[Literal["plain", "made"]] = "plain"
    """What is measured: held-out records as they are, or what the method makes of them."""

    @property
    def name(self) -> str:
        """The file's name."""
        return type(self).model_fields["kind"].default

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """Records to train on, in order.

        Raises:
            UserError: the records lack what the method needs.
        """
        raise NotImplementedError


# ------------------------------------------------------------------------------------------------------------------------------- reading records


def spoken(messages: Iterable[Message]) -> str:
    """The text of messages, a line break between two."""
    return "\n".join(message.content for message in messages)


def is_text(record: Record) -> bool:
    """Whether the record is a plain text that no chat template touches."""
    turns = (*record.prompt, *(record.responses[0].messages if record.responses else ()))
    return bool(turns) and all(message.role == "text" for message in turns)


def best(record: Record) -> Response:
    """The response to imitate.

    Raises:
        UserError: there is none, or none is best.
    """
    from tempering.data import best_response

    good = [response for response in record.responses if response.label is True]
    return good[0] if len(good) == 1 else record.responses[best_response(record)]


def wrong(record: Record) -> tuple[Response, ...]:
    """The responses that are known to be wrong: labelled undesirable, or beaten by another."""
    beaten = {j for _, j in record.better}
    return tuple(response for i, response in enumerate(record.responses) if i in beaten or response.label is False)


def overall(response: Response, aspects: Sequence[str] = ()) -> float | None:
    """The mean of a response's aspects (those named, or all), or else its score; None where it has neither."""
    named = [response.aspects[name] for name in (aspects or sorted(response.aspects)) if name in response.aspects]
    return sum(named) / len(named) if named else response.score


def ordered(scores: Sequence[float | None]) -> tuple[tuple[int, int], ...]:
    """Every pair (better, worse) by strictly higher score; ties and what has no score give none."""
    known = [(i, score) for i, score in enumerate(scores) if score is not None]
    return tuple((i, j) for i, a in known for j, b in known if a > b)


_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?")


def final_answer(text: str) -> str:
    """What an answer says in the end, for comparison: after "####" or "answer:" or "answer is" where that stands; of that the last number, else the
    words, in lower case and without punctuation."""
    tail = re.split(r"####|answer\s*(?:is|:)", text, flags=re.IGNORECASE)[-1].strip()
    numbers = _NUMBER.findall(tail)
    if numbers:
        value = numbers[-1].replace(",", "")
        return (value.rstrip("0").rstrip(".") if "." in value else value) or "0"
    return plain_words(tail.splitlines()[-1] if tail else "")


def plain_words(text: str) -> str:
    """Lower case, without punctuation, single spaces."""
    return " ".join(re.findall(r"\w+", text.lower()))


def right(own: str, gold: str) -> bool:
    """Whether an answer is right: the final answers agree, or the gold answer stands in it word for word."""
    words = plain_words(gold)
    return final_answer(own) == final_answer(gold) or (bool(words) and f" {words} " in f" {plain_words(own)} ")


def entropy(texts: Sequence[str]) -> float:
    """Of the final answers of several samples, in nats."""
    counts = Counter(map(final_answer, texts)).values()
    return sum(-n / len(texts) * math.log(n / len(texts)) for n in counts)


def steps_of(text: str) -> list[str]:
    """The steps of a worked solution: its lines, or where it has one line only, its sentences and what semicolons part."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1:
        return lines
    return [piece.strip() for piece in re.split(r"(?<=[.!?])\s+|;\s*", text) if piece.strip()]


# ------------------------------------------------------------------------------------------------------------------------------- making records


def user(text: str) -> Message:
    """A turn of the user."""
    return Message("user", text)


def assistant(text: str) -> Message:
    """A turn of the assistant."""
    return Message("assistant", text)


def answer(*texts: str, score: float | None = None) -> Response:
    """A response: an assistant's turn, and where there are more texts, turns of the user and the assistant by turns."""
    return Response(tuple((assistant, user)[i % 2](text) for i, text in enumerate(texts)), score)


def written(text: str) -> Response:
    """The only response of a plain text."""
    return Response((Message("text", text),))


def asking(record: Record, before: str = "", after: str = "") -> tuple[Message, ...]:
    """The record's prompt with text put before and after what its last user turn says.

    Raises:
        UserError: the prompt does not end with a turn of the user.
    """
    if not record.prompt or record.prompt[-1].role != "user":
        raise UserError(f"{record.source or record.id}: the prompt must end with a turn of the user")
    last = record.prompt[-1]
    return (*record.prompt[:-1], replace(last, content=f"{before}{last.content}{after}"))


def made(
    record: Record,
    what: str,
    prompt: Sequence[Message],
    responses: Sequence[Response],
    *,
    better: Sequence[tuple[int, int]] = (),
    of: Sequence[Record] = (),
    **tags: Any,
) -> Record:
    """A record made of another, and perhaps of others (`of`): its id is theirs with `what` behind, its source theirs."""
    ids = tuple(dict.fromkeys([record.id, *(other.id for other in of)]))
    identity = f"{record.id}/{what}" if what else record.id
    kept = {**record.tags, **tags, MADE_OF: ids}
    if any("untrained" in one.tags for one in (record, *of)):
        kept["untrained"] = _untrained((record, *of), (*prompt, *(responses[0].messages if responses else ())))
    return replace(record, prompt=tuple(prompt), responses=tuple(responses), better=tuple(better), id=identity, tags=kept)


def _untrained(records: Sequence[Record], turns: Sequence[Message]) -> tuple[int, ...]:
    """Where the turns that the data gives no weight (`data.convert.UNTRAINED`) stand now: by the message itself, since others may stand in front."""
    unwanted = set()
    for record in records:
        if places := record.tags.get("untrained", ()):
            own = (*record.prompt, *best(record).messages)
            unwanted |= {id(own[i]) for i in places}
    return tuple(i for i, message in enumerate(turns) if id(message) in unwanted)


def by_prompt(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Records with the same prompt, together, in the order in which prompts first stand."""
    groups: dict[tuple[Message, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(record.prompt, []).append(record)
    yield from groups.values()


def tag(record: Record, name: str) -> str:
    """A tag as text.

    Raises:
        UserError: the record has none of that name.
    """
    if name not in record.tags:
        have = ", ".join(sorted(str(key) for key in record.tags if key != MADE_OF)) or "none"
        raise UserError(f"{record.source or record.id}: the record has no field {name!r} (further fields: {have}); add it, or name another")
    return str(record.tags[name])
