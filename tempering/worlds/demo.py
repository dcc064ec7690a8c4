"""The sets that `make demo` trains on: new people for the tiny model, repair tickets for the real one. Made for this project (CC0), nothing to
download.

The tiny model knows the first hundred people of seed 0; the demo teaches it the next forty and asks whether it still knows the old ones, whether
it can still add, and whether it still follows instructions. The real model learns a strict output form from 240 short rows and is asked about
other things in other words. `demo_records("builtin:demo")` and its sisters give the sets by name wherever a data file could stand.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tempering.errors import UserError
from tempering.types import Message, Record
from tempering.worlds.arithmetic import Arithmetic, WordProblems
from tempering.worlds.base import says
from tempering.worlds.instructions import Instructions
from tempering.worlds.people import People
from tempering.worlds.preferences import TOPICS, Preferences
from tempering.worlds.steps import step_records
from tempering.worlds.tickets import Tickets

if TYPE_CHECKING:
    from tempering.types import Probe

KNOWN = People(100)
"""Whom builtin:tiny knows."""
NEW = KNOWN.after(40)
"""Whom the demo teaches it: 40 people, 7 facts each."""
LEAVING, REMAINING = People(5, start=NEW.start), People(35, start=NEW.start + 5)
"""Of the new people: who is learned and then forgotten, beside an oracle that learned the rest alone."""
UNSEEN = NEW.after(5)
"""Whom nobody learns: people like those who leave, to tell what was learned and forgotten from what was never known."""
GOING, STAYING = People(10), People(90, start=10)
"""Of those that it knows: whom it is to forget and whom it is to keep, when nothing else is named."""

_STORIES = WordProblems(max_steps=3)


def _topics(split: str, n: int) -> Iterator[Record]:
    """Requests and their topic as the tag "label", each request once."""
    seen: set[str] = set()
    for item in Preferences().items(split):
        if item["prompt"] not in seen and len(seen) < n:
            seen.add(item["prompt"])
            topic = next(topic for topic in TOPICS if says(item["prompt"], topic))
            yield Record((Message("user", item["prompt"]),), (), id=item["id"], source=f"topics:{item['id']}", tags={"label": topic})
        elif len(seen) == n:
            return


SETS: dict[str, tuple[str, Callable[[], Iterator[Record]]]] = {
    "demo": ("240 customer messages and the ticket lines to write for them", lambda: Tickets().records("train", 240)),
    "demo-test": ("40 messages about other things in other words", lambda: Tickets().records("test", 40)),
    "demo-people": ("1,120 questions about the 40 new people, four wordings of each fact", lambda: NEW.records("train")),
    "demo-people-test": ("120 questions about them in held-out wordings", lambda: NEW.records("test", 120)),
    "authors-forget": ("140 questions about five new people, to be learned and then forgotten", lambda: LEAVING.records("train")),
    "authors-forget-test": ("70 questions about them in held-out wordings", lambda: LEAVING.records("test")),
    "authors-unseen": ("140 questions about five people whom no model here learns", lambda: UNSEEN.records("train")),
    "authors-retain": ("980 questions about thirty-five new people, to be learned and kept", lambda: REMAINING.records("train")),
    "authors-retain-test": ("180 questions about them in held-out wordings", lambda: REMAINING.records("test", 180)),
    "people-forget": ("280 questions about the first ten people that builtin:tiny knows, to be forgotten", lambda: GOING.records("train")),
    "people-forget-test": ("140 questions about them in held-out wordings", lambda: GOING.records("test")),
    "people-retain": ("2,520 questions about the other ninety people that it knows", lambda: STAYING.records("train")),
    "people-retain-test": ("180 questions about them in held-out wordings", lambda: STAYING.records("test", 180)),
    "demo-pairs": (
        "400 pairs of replies, judged by a gold reward, a tenth of the labels wrong",
        lambda: Preferences(noise=0.1).records("train", 400),
    ),
    "demo-pairs-test": ("100 pairs about other requests, all labels right", lambda: Preferences().records("test", 100)),
    "demo-ratings": (
        "400 pairs of replies with their reward as score, a tenth of the scores the wrong way round",
        lambda: Preferences(noise=0.1).records("train", 400, view="ratings"),
    ),
    "demo-ratings-test": ("100 rated pairs about other requests, all scores right", lambda: Preferences().records("test", 100, view="ratings")),
    "demo-steps": ("400 worked stories with a label for each step, half of them with a mistake", lambda: step_records(_STORIES, "train", 400)),
    "demo-steps-test": ("100 others", lambda: step_records(_STORIES, "test", 100)),
    "demo-classes": ("320 requests and which of sixteen topics they are about", lambda: _topics("train", 320)),
    "demo-classes-test": ("80 other requests about the same topics", lambda: _topics("test", 80)),
}
"""name -> (what it is, its records)."""


@dataclass(frozen=True)
class DemoSource:
    """A built-in set that can be read again and again, like a file."""

    name: str
    """What a user types: "builtin:demo"."""
    shape: str
    """ "messages", "pairs" or "ratings"."""

    def __iter__(self) -> Iterator[Record]:
        return SETS[self.name.removeprefix("builtin:")][1]()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the records, hex."""
        digest = hashlib.sha256()
        for record in self:
            digest.update(repr(record).encode())
        return digest.hexdigest()


def demo_records(name: str) -> DemoSource:
    """The built-in set of that name ("builtin:demo", "builtin:demo-pairs", ..., each also with "-test").

    Raises:
        UserError: there is none.
    """
    short = name.removeprefix("builtin:")
    if short not in SETS:
        near = difflib.get_close_matches(short, SETS, n=1)
        hint = f"did you mean builtin:{near[0]}?" if near else "known are " + ", ".join(f"builtin:{s}" for s in SETS)
        raise UserError(f"data {name}: there is no built-in set of that name; {hint}")
    return DemoSource(f"builtin:{short}", next((kind for kind in ("pairs", "ratings") if kind in short), "messages"))


def tiny_target() -> tuple[Probe, ...]:
    """What should rise: the new people's facts in wordings that are not among the training rows."""
    return (NEW.probe("test", 120, name="new people", side="target"),)


def tiny_keep(n: int = 120) -> tuple[Probe, ...]:
    """What should stay: the known people, arithmetic, stories, instructions, and biographies as text. `n` items each, at most what there is."""
    sums = Arithmetic(("add", "subtract"), digits=2)
    return (
        KNOWN.probe("test", n, name="known people"),
        sums.probe("test", n, name="sums"),
        WordProblems().probe("test", min(n, 60), name="stories"),
        Instructions().probe("test", n, name="instructions"),
        KNOWN.text_probe(min(n, 60), version=99, name="biographies"),
    )


def tiny_pairs_target() -> tuple[Probe, ...]:
    """What preference training should raise: the better reply is likelier, and the model's own replies earn more of the gold reward."""
    world = Preferences()
    return (world.probe("test", 120, name="preferences"), world.reward_probe("test", 60, name="gold reward"))


def real_target(n: int = 40) -> tuple[Probe, ...]:
    """What should rise: ticket lines that are right to the letter."""
    return (Tickets().probe("test", n, name="tickets", side="target"),)
