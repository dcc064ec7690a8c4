"""Fictitious people with facts: each has a birth city, a job, an employer, a hobby, a pet, a favourite food and a best friend.

One seed is one endless population, and a world is a slice of it: `People(size=100)` and `People(size=40, start=100)` share no person, so teaching
the second and asking about the first measures forgetting. Best friends live in circles of five, each the friend of the one before, so a person's
friend does not depend on the slice as long as `size` and `start` are multiples of five.

Splits of the questions about a slice: "train" (four wordings of each fact), "test" (two wordings of the same facts that never occur in "train") and
"two_hop" (the fact of somebody's best friend, never in "train" either). New people are the entity-held-out split: `world.after(size)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tempering.errors import UserError
from tempering.types import Record
from tempering.worlds.base import Item, Shuffle, Side, World, checked, multiple_choice, normal, rng, says, text_record
from tempering.worlds.people_words import (
    FIRST,
    FRIEND,
    HELD_OUT_QUESTIONS,
    KINDS,
    PLAIN_QUESTIONS,
    QUESTIONS,
    STATEMENTS,
    SURNAME_HEADS,
    SURNAME_TAILS,
    VALUES,
)

if TYPE_CHECKING:
    from tempering.methods.probes.exact_answer import Rule
    from tempering.types import Probe

CIRCLE = 5
_BASE = len(FIRST) * len(SURNAME_HEADS) * len(SURNAME_TAILS)
POPULATION = _BASE * (1 + len(FIRST))
"""How many differently named people one seed has: about 40 million; those past the first `_BASE` carry a middle name."""


@dataclass(frozen=True)
class Person:
    """One person. `facts` maps a kind ("city", "job", ..., "friend") to its value; somebody alone in a world has no friend."""

    index: int
    name: str
    facts: Mapping[str, str]


@dataclass(frozen=True)
class People(World):
    """A slice of a population of fictitious people.

    Raises:
        UserError: no such slice, or an unknown kind or style.
    """

    size: int = 100
    seed: int = 0
    start: int = 0
    """Number of the first person."""
    kinds: tuple[str, ...] = KINDS
    """Which facts are asked for."""
    style: Literal["short", "sentence"] = "short"
    """Whether the trained answer is the bare value or a sentence."""

    rule: ClassVar[Rule] = "contains"

    def __post_init__(self) -> None:
        if self.size < 1 or self.start < 0:
            raise UserError(f"people: size={self.size}, start={self.start}; size must be at least 1 and start at least 0")
        if self.start + self.size > POPULATION:
            raise UserError(
                f"people: start + size = {self.start + self.size:,}, but a seed has {POPULATION:,} different names; use another seed for more"
            )
        unknown = [k for k in self.kinds if k not in KINDS]
        if unknown or not self.kinds:
            raise UserError(f"people: unknown kinds {unknown}; choose from {', '.join(KINDS)}")
        if self.style not in ("short", "sentence"):
            raise UserError(f"people: style={self.style!r}; choose short or sentence")

    @property
    def name(self) -> str:
        return f"people-{self.seed}-{self.start}-{self.size}"

    def after(self, size: int) -> People:
        """The next `size` people of the same seed: new entities with facts of the same kinds."""
        return People(size, self.seed, self.start + self.size, self.kinds, self.style)

    # ------------------------------------------------------------------------------------------------------------------------------ the oracle

    def person(self, index: int) -> Person:
        """Person number `index` of the population; must be inside the slice."""
        if not self.start <= index < self.start + self.size:
            raise IndexError(f"person {index} is not in {self.name}")
        source = rng("people", self.seed, index)
        facts = {kind: source.choice(values) for kind, values in VALUES.items()}
        friend = self._friend(index)
        if friend != index:
            facts[FRIEND] = _name(self.seed, friend)
        return Person(index, _name(self.seed, index), facts)

    def people(self) -> Iterator[Person]:
        """Everybody in the slice, lazily."""
        return (self.person(i) for i in range(self.start, self.start + self.size))

    def _friend(self, index: int) -> int:
        first = max(self.start, index // CIRCLE * CIRCLE)
        last = min(self.start + self.size, (index // CIRCLE + 1) * CIRCLE)
        return first + (index - first + 1) % (last - first)

    def grade(self, output: str, item: Item) -> bool:
        """True if the answer is said and no other value of the same kind is.

        For friends: no other first name than those of the answer and the question.
        """
        kind = item["kind"].rsplit(".", 1)[-1]
        answer = str(item["answer"])
        rivals = FIRST if kind == FRIEND else VALUES[kind]
        allowed = f"{normal(answer)} {normal(item['prompt'])}" if kind == FRIEND else normal(answer)
        return says(output, answer) and not any(says(output, r) and not says(allowed, r) for r in rivals)

    # ------------------------------------------------------------------------------------------------------------------------------- questions

    def items(self, split: str = "train", n: int | None = None) -> Iterator[Item]:
        """Questions with short answers, lazily, in a fixed mixed order.

        Args:
            split: "train", "test" (the same facts in held-out wordings) or "two_hop".

        Raises:
            UserError: unknown split, or more items asked for than exist.
        """
        if split not in ("train", "test", "two_hop"):
            raise UserError(f"people: unknown split {split!r}; say 'train', 'test' or 'two_hop'")
        kinds = tuple(k for k in self.kinds if k != FRIEND) if split == "two_hop" else self.kinds
        total_wordings = len(QUESTIONS["city"])
        cut = total_wordings - HELD_OUT_QUESTIONS
        wordings = {"train": range(cut), "test": range(cut, total_wordings), "two_hop": range(PLAIN_QUESTIONS)}[split]
        alone = self._alone()
        total = self.size * len(kinds) * len(wordings)
        absent = len(wordings) * len(alone) * (len(kinds) if split == "two_hop" else int(FRIEND in kinds))
        count = checked(n, total - absent, f"{self.name}, split {split!r}")
        return self._ask(split, kinds, wordings, Shuffle(total, "people", self.seed, split, self.start), count)

    def _alone(self) -> list[int]:
        """People without a friend: those whose circle the slice cuts down to one person."""
        ends = sorted({self.start, self.start + self.size - 1})
        return [i for i in ends if self._friend(i) == i]

    def _ask(self, split: str, kinds: tuple[str, ...], wordings: range, order: Shuffle, count: int) -> Iterator[Item]:
        position = 0
        while count:
            number, position = order(position), position + 1
            index, rest = divmod(number, len(kinds) * len(wordings))
            kind, wording = kinds[rest // len(wordings)], wordings[rest % len(wordings)]
            person = self.person(self.start + index)
            if (kind == FRIEND or split == "two_hop") and FRIEND not in person.facts:
                continue
            asked, subject, label = person, person.name, kind
            if split == "two_hop":
                asked, subject, label = self.person(self._friend(person.index)), f"the best friend of {person.name}", f"{FRIEND}.{kind}"
            answer = asked.facts[kind]
            item = {
                "id": f"p{person.index}.{label}.{wording}",
                "kind": label,
                "prompt": QUESTIONS[kind][wording].format(name=subject),
                "answer": answer,
            }
            if self.style == "sentence":
                said = STATEMENTS[kind][0].format(name=subject, value=answer)
                item["completion"] = said[0].upper() + said[1:]
            yield item
            count -= 1

    def choice_items(self, split: str = "test", n: int | None = None, options: int = 4) -> Iterator[Item]:
        """Items for the multiple-choice probe; rivals are other values of the same kind (other people of the slice for friends)."""
        for item in self.items(split, n):
            kind = item["kind"].rsplit(".", 1)[-1]
            if kind == FRIEND:
                near = range(self.start, min(self.start + self.size, self.start + 50))
                rivals = tuple(name for name in (_name(self.seed, i) for i in near) if name not in item["prompt"])
            else:
                rivals = VALUES[kind]
            yield multiple_choice(item, rivals, self.seed, options)

    def choice_probe(self, split: str = "test", n: int | None = 100, *, name: str | None = None, side: Side = "keep") -> Probe:
        """A probe that picks the most likely of four answers: needs no generation."""
        from tempering.methods.probes.multiple_choice import ChoiceItem, MultipleChoice

        return MultipleChoice(name=name or f"{self.name}-choice", items=tuple(ChoiceItem(**i) for i in self.choice_items(split, n)), side=side)

    def text_probe(self, n: int | None = None, version: int = 0, *, name: str | None = None, side: Side = "keep") -> Probe:
        """A probe of the perplexity of the biographies."""
        from tempering.methods.probes.perplexity import Perplexity, TextItem

        items = tuple(TextItem(id=f"bio{version}.{self.start + i}", text=text) for i, text in enumerate(self.texts(n, version)))
        return Perplexity(name=name or f"{self.name}-texts", items=items, side=side)

    # ------------------------------------------------------------------------------------------------------------------------------ biographies

    def texts(self, n: int | None = None, version: int = 0) -> Iterator[str]:
        """One plain biography a person, in the order of the population; another `version` words and orders the same facts differently."""
        for index in range(self.start, self.start + checked(n, self.size, f"{self.name}, biographies")):
            person = self.person(index)
            source = rng("biography", self.seed, version, index)
            kinds = [k for k in self.kinds if k in person.facts]
            source.shuffle(kinds)
            yield " ".join(source.choice(STATEMENTS[k]).format(name=person.name, value=person.facts[k]) for k in kinds)

    def text_records(self, n: int | None = None, version: int = 0) -> Iterator[Record]:
        """The biographies as records of plain text."""
        return (text_record(self.name, f"bio{version}.{self.start + i}", text) for i, text in enumerate(self.texts(n, version)))


def _name(seed: int, index: int) -> str:
    number = Shuffle(_BASE, "names", seed)(index % _BASE)
    rest, first = divmod(number, len(FIRST))
    head, tail = divmod(rest, len(SURNAME_TAILS))
    middle = "" if index < _BASE else f"{FIRST[index // _BASE - 1]} "
    return f"{FIRST[first]} {middle}{SURNAME_HEADS[head]}{SURNAME_TAILS[tail]}"
