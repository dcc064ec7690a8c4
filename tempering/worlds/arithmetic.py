"""Arithmetic with checkable answers: sums, differences and products by difficulty, and short stories of one to three steps, with worked steps on
request.

The held-out tenth is chosen among *pairs of numbers* (without order), so 12 + 47 in "train" means that neither 12 + 47 nor 47 + 12 is in "test", in
whatever wording. Difficulty is the number of digits of the larger number, and worlds of different difficulty share no problem.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tempering.errors import UserError
from tempering.worlds.base import Item, World, draw, rng, words

if TYPE_CHECKING:
    from tempering.methods.probes.exact_answer import Rule

_SIGNS = {"add": "+", "subtract": "-", "multiply": "*"}
_WORDINGS = {
    "add": ("What is {a} + {b}?", "{a} + {b} = ?", "Compute {a} + {b}.", "Add {a} and {b}.", "What is the sum of {a} and {b}?"),
    "subtract": ("What is {a} - {b}?", "{a} - {b} = ?", "Compute {a} - {b}.", "Subtract {b} from {a}.", "What is {a} minus {b}?"),
    "multiply": ("What is {a} * {b}?", "{a} * {b} = ?", "Compute {a} * {b}.", "Multiply {a} by {b}.", "What is {a} times {b}?"),
}


def last_number(output: str) -> int | None:
    """The last whole number in the text, or None; a thousands comma and a minus sign are understood."""
    found = re.findall(r"(?<![\w.])-?\d[\d,]*(?!\.?\d)", output)
    digits = found[-1].replace(",", "") if found else ""
    return int(digits) if digits else None


def _worked(op: str, a: int, b: int) -> tuple[list[str], int]:
    """Place by place: 23 + 45 as "23 + 40 = 63; 63 + 5 = 68", products as a sum of partial products."""
    places = [int(d) * 10**i for i, d in reversed(list(enumerate(reversed(str(b))))) if d != "0"] or [0]
    if op == "multiply":
        lines = [f"{a} * {p} = {a * p}" for p in places]
        total = a * places[0]
        for p in places[1:]:
            lines.append(f"{total} + {a * p} = {total + a * p}")
            total += a * p
        return lines, total
    lines, total = [], a
    for p in places:
        result = total + p if op == "add" else total - p
        lines.append(f"{total} {_SIGNS[op]} {p} = {result}")
        total = result
    return lines, total


def _completion(lines: list[str], answer: int) -> str:
    return f"{'; '.join(lines)}. Answer: {answer}"


@dataclass(frozen=True)
class Arithmetic(World):
    """Sums, differences (never negative) and products of two whole numbers.

    Raises:
        UserError: an unknown operation, or digits outside 1 to 12.
    """

    operations: tuple[str, ...] = ("add", "subtract", "multiply")
    digits: int = 2
    """Digits of the larger number: the difficulty."""
    steps: bool = False
    """Whether the trained answer shows the way."""
    seed: int = 0

    rule: ClassVar[Rule] = "last_number"
    max_new_tokens: ClassVar[int] = 96

    def __post_init__(self) -> None:
        unknown = [o for o in self.operations if o not in _SIGNS]
        if unknown or not self.operations:
            raise UserError(f"arithmetic: unknown operations {unknown}; choose from {', '.join(_SIGNS)}")
        if not 1 <= self.digits <= 12:
            raise UserError(f"arithmetic: digits={self.digits}; it must lie between 1 and 12")

    @property
    def name(self) -> str:
        return f"arithmetic-{'+'.join(self.operations)}-{self.digits}"

    def items(self, split: str = "train", n: int | None = None) -> Iterator[Item]:
        """Problems, each pair of numbers once an operation, lazily.

        Args:
            split: "train" or "test".
        """
        low: int = 0 if self.digits == 1 else 10 ** (self.digits - 1)
        skipped = low * (low + 1) // 2
        pairs: int = 10**self.digits * (10**self.digits + 1) // 2 - skipped
        totals = dict.fromkeys(self.operations, pairs)
        for op, number in draw(totals, split, n, self.name, "arithmetic", self.seed, self.digits):
            pair = number + skipped
            larger = (math.isqrt(8 * pair + 1) - 1) // 2
            smaller = pair - larger * (larger + 1) // 2
            source = rng("arithmetic", self.seed, op, larger, smaller)
            a, b = (larger, smaller) if op == "subtract" or source.random() < 0.5 else (smaller, larger)
            lines, answer = _worked(op, a, b)
            item = {
                "id": f"{op}.{a}.{b}",
                "kind": op,
                "prompt": source.choice(_WORDINGS[op]).format(a=a, b=b),
                "answer": str(answer),
            }
            yield {**item, "completion": _completion(lines, answer)} if self.steps else item

    def grade(self, output: str, item: Item) -> bool:
        """True if the last number in the output is the answer."""
        return last_number(output) == int(item["answer"])


_NAMES = words("Ada Ben Cleo Dan Eva Finn Gus Hana Ivo Jana Kofi Lina Milo Nora Otto Pia Remy Sol Tara Uri")
_THINGS = words(
    "apples books buttons candles cards coins cups eggs keys marbles pears pencils plums shells spoons stamps stones tickets tiles tokens"
)
_STARTS = {"plain": "{name} has {a} {things}.", "boxes": "{name} has {a} boxes with {b} {things} in each."}
_CHANGES = {
    "gain": ("Then {name} finds {c} more.", "{name} gets {c} {things} from a neighbour.", "{name} buys {c} {things}."),
    "lose": ("Then {name} gives away {c}.", "{name} loses {c} {things}.", "{name} sells {c} {things}."),
}
_ASK = "How many {things} does {name} have now?"


@dataclass(frozen=True)
class WordProblems(World):
    """Stories about things that are gained and lost; a calculation of one to `max_steps` steps.

    Raises:
        UserError: max_steps outside 1 to 6, or limit below 2.
    """

    max_steps: int = 2
    """Most operations in one story."""
    limit: int = 20
    """Largest number that is gained, lost or packed; the start can be larger, so that no story goes below zero."""
    steps: bool = True
    """Whether the trained answer shows the way."""
    seed: int = 0

    rule: ClassVar[Rule] = "last_number"
    max_new_tokens: ClassVar[int] = 96

    def __post_init__(self) -> None:
        if not 1 <= self.max_steps <= 6 or self.limit < 2:
            raise UserError(
                f"word problems: max_steps={self.max_steps}, limit={self.limit}; max_steps must lie between 1 and 6 and limit be at least 2"
            )

    @property
    def name(self) -> str:
        return f"word-problems-{self.max_steps}-{self.limit}"

    def _plots(self) -> list[tuple[str, ...]]:
        """Every kind of story: how it starts and what happens then."""
        plots: list[tuple[str, ...]] = []
        ways: list[tuple[str, ...]] = [()]
        for step in range(self.max_steps + 1):
            plots += [("plain", *w) for w in ways if step >= 1] + [("boxes", *w) for w in ways if step < self.max_steps]
            ways = [(*w, change) for w in ways for change in _CHANGES]
        return plots

    def items(self, split: str = "train", n: int | None = None) -> Iterator[Item]:
        """Stories, no two with the same plot and numbers, lazily.

        Args:
            split: "train" or "test".
        """
        plots = {"-".join(plot): plot for plot in self._plots()}
        totals = {kind: self.limit ** (len(p) + (p[0] == "boxes")) for kind, p in plots.items()}
        for kind, number in draw(totals, split, n, self.name, "stories", self.seed, self.limit):
            yield self._story(kind, plots[kind], number)

    def _story(self, kind: str, plot: tuple[str, ...], number: int) -> Item:
        numbers, code = [], number
        for _ in range(len(plot) + (plot[0] == "boxes")):
            code, digit = divmod(code, self.limit)
            numbers.append(digit + 1)
        source = rng("story", self.seed, self.limit, kind, number)
        filling = {"name": source.choice(_NAMES), "things": source.choice(_THINGS)}
        spare = self.limit * plot.count("lose")  # a start larger by this much cannot be used up
        first, *others = numbers
        lines: list[str] = []
        if plot[0] == "boxes":
            total = (first + spare) * others[0]
            lines.append(f"{first + spare} * {others[0]} = {total}")
            told = [_STARTS["boxes"].format(a=first + spare, b=others.pop(0), **filling)]
        else:
            total = first + spare
            told = [_STARTS["plain"].format(a=total, **filling)]
        for change, c in zip(plot[1:], others, strict=True):
            told.append(source.choice(_CHANGES[change]).format(c=c, **filling))
            after = total + c if change == "gain" else total - c
            lines.append(f"{total} {'+' if change == 'gain' else '-'} {c} = {after}")
            total = after
        told.append(_ASK.format(**filling))
        item = {"id": f"{kind}.{number}", "kind": kind, "prompt": " ".join(told), "answer": str(total)}
        return {**item, "completion": _completion(lines, total)} if self.steps else item

    def grade(self, output: str, item: Item) -> bool:
        """True if the last number in the output is the answer."""
        return last_number(output) == int(item["answer"])
