"""Short instructions about words whose result can be checked to the letter: repeat, uppercase, count, reverse, first, last, join, and answer in a
fixed form.

Grading is strict (the very string, apart from white space at the ends), because the point of an instruction is its form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tempering.errors import UserError
from tempering.worlds.base import Item, Side, World, draw, rng, words
from tempering.worlds.graded import Graded

if TYPE_CHECKING:
    from tempering.types import Probe

WORDS = words(
    """air arm art bag ball band bank barn bath bear bell bird boat bone book bowl box bread brick bridge cake camp card cart cave chair chalk clay
    cliff clock cloth cloud coat coin corn crow crown cup desk dish door dream drum dust ear earth edge eye face farm feast fence field film
    fire fish flag flame floor flute forest fork frost fruit game garden gate gift glass glove gold grain grass hall hammer hand harp hat heart
    hill honey hook horn house ice ink island jar jewel key king kitchen knot lake lamp lane leaf letter light lion map marble market meal
    meadow milk mirror moon morning moss mountain mouth music nail needle nest night north nut oak ocean oil orange owl page paint palace paper
    path pearl pen piano picture pillow pine pipe plant plate pond queen rain ring river road rock roof root rope rose sail salt sand school sea
    seed shadow sheep shell ship shoe silk silver sky smoke snow soap song soup spoon spring square stair star stone storm street sugar summer
    sun table tea tent tiger tower town train tree tunnel valley voice wagon wall water wave well wheel wind window wine wing winter wolf wood
    wool yard"""
)

_TASKS: dict[str, tuple[tuple[str, ...], Callable[[tuple[str, ...]], str]]] = {
    "repeat": (("Repeat: {words}", "Say this again: {words}", "Write the words {words} once more."), " ".join),
    "uppercase": (("Write in capitals: {words}", "Put in upper case: {words}", "Capitalise every letter: {words}"), lambda w: " ".join(w).upper()),
    "count": (("How many words are here: {words}", "Count the words: {words}", "Give the number of words: {words}"), lambda w: str(len(w))),
    "reverse": (("Reverse the order: {words}", "Say the words backwards: {words}", "Turn the list around: {words}"), lambda w: " ".join(reversed(w))),
    "first": (("What is the first word: {words}", "Give the first word: {words}", "Which word comes first: {words}"), lambda w: w[0]),
    "last": (("What is the last word: {words}", "Give the last word: {words}", "Which word comes last: {words}"), lambda w: w[-1]),
    "commas": (("Join with commas: {words}", "Put commas between: {words}", "Make a comma list: {words}"), ", ".join),
}
TASKS = tuple(_TASKS)


@dataclass(frozen=True)
class Instructions(World):
    """Instructions about one to `max_words` words.

    Raises:
        UserError: an unknown task, or max_words outside 1 to 8.
    """

    tasks: tuple[str, ...] = TASKS
    max_words: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [t for t in self.tasks if t not in _TASKS]
        if unknown or not self.tasks:
            raise UserError(f"instructions: unknown tasks {unknown}; choose from {', '.join(TASKS)}")
        if not 1 <= self.max_words <= 8:
            raise UserError(f"instructions: max_words={self.max_words}; it must lie between 1 and 8")

    @property
    def name(self) -> str:
        return f"instructions-{'+'.join(self.tasks) if len(self.tasks) < len(TASKS) else 'all'}-{self.max_words}"

    def items(self, split: str = "train", n: int | None = None) -> Iterator[Item]:
        """Instructions, no task twice with the same words, lazily; tasks and lengths take turns.

        Args:
            split: "train" or "test".
        """
        lengths = range(1 if self.max_words == 1 else 2, self.max_words + 1)
        totals = {f"{task}.{length}": len(WORDS) ** length for length in lengths for task in self.tasks}
        for family, number in draw(totals, split, n, self.name, "instructions", self.seed):
            task, length = family.split(".")
            chosen, code = [], number
            for _ in range(int(length)):
                code, digit = divmod(code, len(WORDS))
                chosen.append(WORDS[digit])
            wordings, oracle = _TASKS[task]
            wording = rng("instruction", self.seed, family, number).choice(wordings)
            yield {
                "id": f"{family}.{number}",
                "kind": task,
                "prompt": wording.format(words=" ".join(chosen)),
                "answer": oracle(tuple(chosen)),
            }

    def grade(self, output: str, item: Item) -> bool:
        """True if the output is the answer to the letter, white space at the ends apart."""
        return output.strip() == item["answer"]

    def probe(self, split: str = "test", n: int | None = 100, *, name: str | None = None, side: Side = "keep") -> Probe:
        """A probe that compares to the letter, which the general rules of exact answers do not."""
        return Graded(name or self.name, tuple(self.items(split, n)), self.grade, side=side)
