"""Customer messages to a repair shop, to be turned into one strict line: `item | fault | day | urgency`.

The line never says how to read a message; a model has to learn the form, the closed lists of faults and the rule of urgency from examples. The
held-out split uses other items and other wordings around the same faults, so a model that learned the rows by heart fails it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tempering.errors import UserError
from tempering.worlds.base import Item, Shuffle, World, checked, words

if TYPE_CHECKING:
    from tempering.methods.probes.exact_answer import Rule

_ITEMS = {
    "train": words(
        "kettle lamp radio toaster camera bicycle scooter printer keyboard heater fan clock blender drill mixer speaker laptop phone freezer oven"
    ),
    "test": words("tablet vacuum projector dishwasher mower humidifier hairdryer watch stove scanner"),
}
_FAULTS: dict[str, dict[str, tuple[str, ...]]] = {
    "noise": {
        "train": ("it makes a loud noise", "it rattles all the time", "it squeaks badly", "there is a terrible buzzing in it"),
        "test": ("it hums very loudly", "it keeps making a strange sound"),
    },
    "no power": {
        "train": ("it does not switch on", "it stays dead when I plug it in", "it will not start", "nothing happens when I press the button"),
        "test": ("it does not turn on any more", "it will not power up"),
    },
    "broken part": {
        "train": ("the handle broke off", "one part snapped", "the cover is cracked", "a screw has come off"),
        "test": ("a piece broke off", "the back is cracked"),
    },
    "leak": {
        "train": ("water drips out of it", "it leaks on the floor", "there is a puddle under it", "some liquid runs out"),
        "test": ("it is leaking", "drops of water come out of it"),
    },
    "late delivery": {
        "train": ("it has not arrived yet", "the parcel is late", "I am still waiting for the delivery", "it was never delivered"),
        "test": ("it still has not been delivered", "the delivery is late"),
    },
}
_DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday")
_FRAMES = {
    "train": (
        "Hello, I bought a {item} from you and {fault}. I can come by on {day}.{hurry}",
        "Hi, my {item} is giving me trouble: {fault}. {day} would suit me.{hurry}",
        "Good morning. About the {item}: {fault}. Please call me on {day}.{hurry}",
        "It is about my {item}. {fault_}. I am at home on {day}.{hurry}",
    ),
    "test": (
        "Dear team, I have a problem with my {item}, since {fault}. Could we meet on {day}?{hurry}",
        "My {item} needs help, because {fault}. I am free on {day}.{hurry}",
    ),
}
_HURRY = {
    "high": (" This is urgent.", " Please hurry!", " I need it as soon as possible."),
    "low": ("", " There is no hurry.", " Take your time."),
}
INSTRUCTION = "Write a ticket line for this message.\n\n"


@dataclass(frozen=True)
class Tickets(World):
    """Messages with one right ticket line each."""

    seed: int = 0

    rule: ClassVar[Rule] = "line"
    max_new_tokens: ClassVar[int] = 32

    @property
    def name(self) -> str:
        return "tickets"

    def items(self, split: str = "train", n: int | None = None) -> Iterator[Item]:
        """Messages, no two alike, lazily.

        Args:
            split: "train" or "test" (other items, other wordings).

        Raises:
            UserError: more asked for than exist.
        """
        what = f"{self.name}, split {split!r}"
        if split not in _ITEMS:
            raise UserError(f"{what}: unknown split; say 'train' or 'test'")
        hurries = [(level, phrase) for level, phrases in _HURRY.items() for phrase in phrases]
        faults = [(fault, phrase) for fault, phrases in _FAULTS.items() for phrase in phrases[split]]
        axes = (_ITEMS[split], faults, _DAYS, _FRAMES[split], hurries)
        total = 1
        for axis in axes:
            total *= len(axis)
        order = Shuffle(total, "tickets", self.seed, split)
        for position in range(checked(n, total, what)):
            code, chosen = order(position), []
            for axis in axes:
                code, at = divmod(code, len(axis))
                chosen.append(axis[at])
            item, (fault, said), day, frame, (level, hurry) = chosen
            message = frame.format(item=item, fault=said, fault_=said[0].upper() + said[1:], day=day, hurry=hurry)
            yield {
                "id": f"{split}.{order(position)}",
                "kind": fault,
                "prompt": INSTRUCTION + message,
                "answer": f"{item} | {fault} | {day} | {level}",
            }

    def grade(self, output: str, item: Item) -> bool:
        """True if the first line is the ticket to the letter; white space at its ends apart."""
        return output.strip().partition("\n")[0].strip() == item["answer"]
