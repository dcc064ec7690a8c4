"""What worlds share: keyed randomness, shuffles that need no memory, splits that cannot overlap, and the shape of an item.

Every world numbers its possible items 0..total-1 and visits them in the order of a keyed bijection, so millions of items come without repetition,
without a table, and the first n are always the same. The held-out items are the first share of that order and the training items the rest: disjoint
by construction.
"""

from __future__ import annotations

import random
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tempering.errors import UserError
from tempering.types import Message, Record, Response

if TYPE_CHECKING:
    from tempering.methods.probes.exact_answer import Rule
    from tempering.types import Probe

Item = Mapping[str, Any]
"""One question: "id", "prompt", "answer" always; "completion" where the trained text says more than the answer; "kind"."""

Side = Literal["target", "keep"]

HELD_OUT = 0.1
"""Share of a world's possible items that are never in "train"."""

_MASK = (1 << 64) - 1


def rng(*key: object) -> random.Random:
    """A generator that depends on the key alone: the same in every process, whatever the hash seed."""
    return random.Random(":".join(str(k) for k in key))


def _mix(x: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): a bijection of 64-bit integers that scatters neighbours."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


class Shuffle:
    """A keyed bijection of range(total) in constant memory: a four-round Feistel network over the next power of four, walked until it lands inside
    (Black and Rogaway, 2002, "Ciphers with arbitrary finite domains")."""

    def __init__(self, total: int, *key: object) -> None:
        self.total = total
        self._half = max(1, ((total - 1).bit_length() + 1) // 2)
        self._low = (1 << self._half) - 1
        source = rng("shuffle", *key)
        self._keys = tuple(source.getrandbits(64) for _ in range(4))

    def __call__(self, index: int) -> int:
        """Where position `index` (0 <= index < total) goes."""
        while True:
            left, right = index >> self._half, index & self._low
            for key in self._keys:
                left, right = right, left ^ (_mix(right ^ key) & self._low)
            index = (left << self._half) | right
            if index < self.total:
                return index


def draw(totals: Mapping[str, int], split: str, n: int | None, what: str, *key: object, held_out: float = HELD_OUT) -> Iterator[tuple[str, int]]:
    """Numbers of a world's items for a split, taking turns over the families of items.

    A family's held-out items depend on the key and the family alone, so worlds that share a family share its split.

    Args:
        totals: how many items each family has; they are numbered from 0.
        split: "train" or "test".
        n: how many to yield over all families; None yields all of the split. Families that run out drop out.
        what: the world in words, for the error.
        key: what the order depends on.

    Raises:
        UserError: unknown split, or more items asked for than the split has.
    """
    if split not in ("train", "test"):
        raise UserError(f"{what}: unknown split {split!r}; say 'train' or 'test'")
    held = {family: min(total - 1, max(1, round(total * held_out))) for family, total in totals.items()}
    ranges = {family: range(held[family]) if split == "test" else range(held[family], total) for family, total in totals.items()}
    count = checked(n, sum(map(len, ranges.values())), f"{what}, split {split!r}")
    return islice(_turns({f: (Shuffle(totals[f], *key, f), r) for f, r in ranges.items()}), count)


def _turns(families: Mapping[str, tuple[Shuffle, range]]) -> Iterator[tuple[str, int]]:
    turn = 0
    while alive := {f: (order, r) for f, (order, r) in families.items() if turn < len(r)}:
        shortest = min(len(r) for _, r in alive.values())
        for position in range(turn, shortest):
            for family, (order, places) in alive.items():
                yield family, order(places[position])
        turn = shortest


def checked(n: int | None, available: int, what: str) -> int:
    """`n`, or all that is available for None. Raises UserError for an impossible size."""
    if n is None:
        return available
    if n < 0:
        raise UserError(f"{what}: asked for {n} items; the number must be 0 or more")
    if n > available:
        raise UserError(f"{what}: asked for {n:,} items but only {available:,} different ones exist; ask for at most that or make the world larger")
    return n


def words(text: str, separator: str = " ") -> tuple[str, ...]:
    """The words (or phrases) of a list written as one text; line breaks count as spaces."""
    return tuple(" ".join(text.split()).split(separator))


def normal(text: str) -> str:
    """Lower case words and numbers with single spaces, without punctuation and leading articles: what graders compare."""
    found = re.findall(r"[^\W_]+(?:['\u2019][^\W_]+)*", text.lower())
    if found and found[0] in ("a", "an", "the"):
        found = found[1:]
    return " ".join(found)


def says(output: str, phrase: str) -> bool:
    """True if the words of `phrase` stand in `output` next to each other, as whole words."""
    return bool(normal(phrase)) and f" {normal(phrase)} " in f" {normal(output)} "


def multiple_choice(item: Item, rivals: Sequence[str], key: object, options: int = 4) -> dict[str, Any]:
    """{"id", "question", "choices", "answer"}: the answer and `options - 1` rivals in a keyed order, "answer" the index of the right one."""
    source = rng("choices", key, item["id"])
    others = [r for r in rivals if r != item["answer"]]
    if len(others) < options - 1:
        raise UserError(
            f"multiple choice with {options} options needs {options - 1} wrong answers, but only {len(others)} exist; ask for fewer options"
        )
    choices = [item["answer"], *source.sample(others, options - 1)]
    source.shuffle(choices)
    return {"id": item["id"], "question": item["prompt"], "choices": tuple(choices), "answer": choices.index(item["answer"])}


def record(world: str, item: Item) -> Record:
    """A training record of an item: its prompt as the user, its completion (or answer) as the assistant."""
    return Record(
        prompt=(Message("user", item["prompt"]),),
        responses=(Response((Message("assistant", str(item.get("completion", item["answer"]))),)),),
        id=item["id"],
        source=f"{world}:{item['id']}",
        tags={"world": world, "kind": item.get("kind", ""), "answer": item["answer"]},
    )


def text_record(world: str, id: str, text: str) -> Record:
    """A record of plain text that no chat template touches."""
    return Record(prompt=(), responses=(Response((Message("text", text),)),), id=id, source=f"{world}:{id}", tags={"world": world, "kind": "text"})


class World:
    """Abstract: a world of questions with answers. Subclasses are frozen dataclasses and give `items` and `grade`."""

    rule: ClassVar[Rule] = "text"
    """How `probe` takes the answer out of the output; see `methods/probes/exact_answer.py`."""
    max_new_tokens: ClassVar[int] = 24
    """Room for an answer when probed."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What records and probes of this world are called; differs where the world's parameters differ."""
        raise NotImplementedError

    @abstractmethod
    def items(self, split: str = "train", n: int | None = None) -> Iterator[Item]:
        """Different items of a split, always in the same order; lazily."""
        raise NotImplementedError

    @abstractmethod
    def grade(self, output: str, item: Item) -> bool:
        """Whether a model's output answers the item."""
        raise NotImplementedError

    def records(self, split: str = "train", n: int | None = None) -> Iterator[Record]:
        """The items of a split as training records, lazily."""
        return (record(self.name, item) for item in self.items(split, n))

    def probe(self, split: str = "test", n: int | None = 100, *, name: str | None = None, side: Side = "keep") -> Probe:
        """A probe that lets the model answer the items and compares by the world's rule."""
        from tempering.methods.probes.exact_answer import AnswerItem, ExactAnswer

        items = tuple(AnswerItem(id=i["id"], prompt=i["prompt"], answer=i["answer"]) for i in self.items(split, n))
        return ExactAnswer(name=name or self.name, items=items, rule=self.rule, max_new_tokens=self.max_new_tokens, side=side)
