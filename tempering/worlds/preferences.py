"""Requests and replies under a gold reward, with exactly as much label noise as asked for.

The gold reward likes replies that are on the topic, courteous and short. It is a function of the text alone, so it can score what a model writes,
not only what this world wrote. Pairs are two replies with different rewards, the better one chosen; of every `BLOCK` pairs in a row exactly
`round(noise * BLOCK)` have their labels swapped, at random places, so the noise rate is a fact and not a hope.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

from tempering.errors import UserError
from tempering.types import Message, Record, Response
from tempering.worlds.base import HELD_OUT, Item, Shuffle, Side, checked, normal, rng, says
from tempering.worlds.graded import Graded

if TYPE_CHECKING:
    from tempering.types import Probe

BLOCK = 100
"""Pairs in which the noise is exact."""

TOPICS: dict[str, tuple[str, ...]] = {
    "bread": ("Knead the dough for ten minutes.", "Let the dough rest overnight.", "Bake it until the crust is brown."),
    "tea": ("Warm the pot first.", "Let the leaves draw for three minutes.", "Use fresh water."),
    "roses": ("Cut them back in spring.", "Water them in the morning.", "Give them a sunny place."),
    "bicycles": ("Oil the chain every month.", "Pump up both tyres.", "Check the brakes first."),
    "chess": ("Bring out the knights early.", "Castle before you attack.", "Look at every check."),
    "guitars": ("Tune the strings first.", "Practise slowly every day.", "Learn three chords."),
    "kites": ("Wait for a steady wind.", "Hold the line tight.", "Choose an open field."),
    "soup": ("Cook the onions slowly.", "Add salt at the end.", "Let it simmer for an hour."),
    "gardens": ("Dig in some compost.", "Plant the seeds in rows.", "Pull the weeds early."),
    "tents": ("Choose flat ground.", "Put the pegs in firmly.", "Face the door away from the wind."),
    "pianos": ("Play scales every morning.", "Keep the wrists loose.", "Start with the left hand."),
    "letters": ("Begin with a greeting.", "Write the date at the top.", "Keep the sentences short."),
    "candles": ("Trim the wick first.", "Keep it out of the wind.", "Let it burn for an hour."),
    "fences": ("Paint it on a dry day.", "Set the posts deep.", "Begin at the corner."),
    "salad": ("Wash the leaves well.", "Add the oil last.", "Use ripe tomatoes."),
    "boots": ("Brush off the mud.", "Dry them slowly.", "Rub in some wax."),
}
_PLACES = (
    "at home",
    "in town",
    "by the sea",
    "in the hills",
    "at school",
    "on a farm",
    "in winter",
    "in summer",
    "on a rainy day",
    "on a Sunday",
    "with children",
)
_REQUESTS = (
    "How do I get better with {topic} {place}?",
    "Give me advice about {topic} {place}.",
    "I need help with {topic} {place}.",
    "What should I know about {topic} {place}?",
    "Any tips for {topic} {place}?",
    "Tell me something useful about {topic} {place}.",
)
_COURTEOUS = ("Gladly!", "With pleasure.", "Thank you for asking.", "Happy to help.")
_CURT = ("Fine.", "Whatever.", "If you must know.", "Not again.")
_OFF_TOPIC = ("The sky is blue today.", "Trains leave from the station.", "My hat is too small.")
_LONG = (
    "There is a great deal more that one could say about this and about many other things besides, and so on and so forth.",
    "I could go on and on about this for hours, as people so often do when they have nothing else to do all day.",
    "In other words, and to say the very same thing once more in a different way, it all depends on this and on that.",
)
_ON_TOPIC_LEAD = "About {topic}: "
COURTESY = ("gladly", "pleasure", "thank", "thanks", "please", "happy to", "welcome", "kindly")


@dataclass(frozen=True)
class Gold:
    """`topic` if the reply names what was asked about, plus `courtesy` if it has a courteous word, minus `length` for every word over `budget`."""

    topic: float = 2.0
    courtesy: float = 1.0
    length: float = 0.025
    budget: int = 16

    def __call__(self, prompt: str, response: str) -> float:
        """The reward of a reply, at most `topic + courtesy`. A reply without words gets minus one."""
        words = len(normal(response).split())
        if not words:
            return -1.0
        asked = [t for t in TOPICS if says(prompt, t)]
        on_topic = bool(asked) and any(says(response, t) for t in asked)
        courteous = any(says(response, c) for c in COURTESY)
        return self.topic * on_topic + self.courtesy * courteous - self.length * max(0, words - self.budget)


_STYLES = tuple((topic, courteous, long) for topic in (0, 1) for courteous in (0, 1) for long in (0, 1))
_DUELS = tuple(combinations(range(len(_STYLES)), 2))
_VARIANTS = 12
_REQUEST_COUNT = len(TOPICS) * len(_PLACES) * len(_REQUESTS)
_DUELS_OF_A_REQUEST = len(_DUELS) * _VARIANTS**2


def _reply(style: tuple[int, int, int], variant: int, topic: str) -> str:
    """A reply of a style. `variant` (0.._VARIANTS-1) picks the words, independently of the style."""
    second, first = divmod(variant, 4)
    opening = _COURTEOUS[first] if style[1] else _CURT[first]
    middle = _ON_TOPIC_LEAD.format(topic=topic) + TOPICS[topic][second] if style[0] else _OFF_TOPIC[second]
    return " ".join([opening, middle, *([_LONG[second]] if style[2] else [])])


@dataclass(frozen=True)
class Preferences:
    """Pairs of replies to requests, labelled by the gold reward with noise.

    Raises:
        UserError: noise outside 0 to 1, or no whole number of swaps in `BLOCK` pairs.
    """

    noise: float = 0.0
    """Share of pairs with swapped labels; exact in every hundred pairs."""
    seed: int = 0
    gold: Gold = Gold()

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 1 or abs(self.noise * BLOCK - round(self.noise * BLOCK)) > 1e-9:
            raise UserError(f"preferences: noise={self.noise}; it must be a share between 0 and 1 in whole hundredths, for example 0.25")

    @property
    def name(self) -> str:
        return f"preferences-{self.noise:g}"

    def reward(self, prompt: str, response: str) -> float:
        """The oracle: the gold reward of any reply to any of this world's requests."""
        return self.gold(prompt, response)

    def grade(self, output: str, item: Item) -> bool:
        """True if the reply earns at least the reward of the item's better reply."""
        return self.reward(item["prompt"], output) >= self.reward(item["prompt"], item["answer"])

    def items(self, split: str = "train", n: int | None = None) -> Iterator[Item]:
        """Requests with two replies: "answer" (better by the gold reward), "worse", both rewards as "gold", and "flipped". No two the same; lazily.

        Under the default gold reward the rewards always differ; under another they may tie, and then "answer" is either.

        Args:
            split: "train" or "test"; they share no request (topic, place and wording together).
        """
        if split not in ("train", "test"):
            raise UserError(f"{self.name}: unknown split {split!r}; say 'train' or 'test'")
        order = [*range(_REQUEST_COUNT)]
        rng("requests", self.seed).shuffle(order)
        held = round(_REQUEST_COUNT * HELD_OUT)
        mine = order[:held] if split == "test" else order[held:]
        total = len(mine) * _DUELS_OF_A_REQUEST
        places = Shuffle(total, "pairs", self.seed, split)
        for position in range(checked(n, total, f"{self.name}, split {split!r}")):
            code, request = divmod(places(position), len(mine))
            yield self._item(position, mine[request], code, split)

    def _item(self, position: int, request: int, code: int, split: str) -> Item:
        code, first = divmod(code, _VARIANTS)
        duel, second = divmod(code, _VARIANTS)
        rest, wording = divmod(request, len(_REQUESTS))
        topic, place = list(TOPICS)[rest // len(_PLACES)], _PLACES[rest % len(_PLACES)]
        prompt = _REQUESTS[wording].format(topic=topic, place=place)
        replies = [_reply(_STYLES[s], v, topic) for s, v in zip(_DUELS[duel], (first, second), strict=True)]
        replies.sort(key=lambda r: -self.gold(prompt, r))
        block, place_in_block = divmod(position, BLOCK)
        flipped = place_in_block in rng("noise", self.seed, split, block).sample(range(BLOCK), round(self.noise * BLOCK))
        return {
            "id": f"{split}.{request}.{duel}.{first}.{second}",
            "kind": "pair",
            "prompt": prompt,
            "answer": replies[0],
            "worse": replies[1],
            "gold": (self.gold(prompt, replies[0]), self.gold(prompt, replies[1])),
            "flipped": flipped,
        }

    def records(
        self, split: str = "train", n: int | None = None, view: Literal["pairs", "ratings", "labels", "demonstrations"] = "pairs"
    ) -> Iterator[Record]:
        """Training records, lazily; all views but demonstrations carry the noise.

        Args:
            view: "pairs" (chosen, rejected), "ratings" (both replies with their reward as score), "labels" (one reply, desirable or not) or
                "demonstrations" (one reply of any quality, without a judgement).

        Raises:
            UserError: unknown view or split, or too many asked for.
        """
        if view not in ("pairs", "ratings", "labels", "demonstrations"):
            raise UserError(f"{self.name}: unknown view {view!r}; choose pairs, ratings, labels or demonstrations")
        for item in self.items(split, n):
            texts, scores = [item["answer"], item["worse"]], list(item["gold"])
            if item["flipped"] and view == "ratings":
                scores.reverse()
            elif item["flipped"]:
                texts.reverse()
            replies = [(Message("assistant", t),) for t in texts]
            one = rng("one", self.seed, item["id"]).randrange(2)
            if view == "pairs":
                responses = tuple(Response(reply) for reply in replies)
            elif view == "ratings":
                responses = tuple(Response(reply, score=score) for reply, score in zip(replies, scores, strict=True))
            else:
                responses = (Response(replies[one], label=one == 0 if view == "labels" else None),)
            yield Record(
                prompt=(Message("user", item["prompt"]),),
                responses=responses,
                better=((0, 1),) if view == "pairs" else (),
                id=item["id"],
                source=f"{self.name}:{item['id']}",
                tags={"world": self.name, "kind": view, "flipped": item["flipped"], "gold": item["gold"]},
            )

    def probe(self, split: str = "test", n: int | None = 100, *, name: str | None = None, side: Side = "target") -> Probe:
        """A probe of how often the model finds the better reply more likely, by mean log-prob per token; free of label noise."""
        from tempering.methods.probes.preference_accuracy import PreferenceAccuracy, PreferenceItem

        items = tuple(PreferenceItem(id=i["id"], prompt=i["prompt"], chosen=i["answer"], rejected=i["worse"]) for i in self.items(split, n))
        return PreferenceAccuracy(name=name or self.name, items=items, side=side)

    def reward_probe(self, split: str = "test", n: int | None = 50, *, name: str | None = None, side: Side = "target") -> Probe:
        """A probe of the gold reward of what the model itself writes."""
        items = tuple(self.items(split, n))
        return Graded(
            name or f"{self.name}-reward",
            items,
            lambda output, item: self.reward(item["prompt"], output),
            metric="gold reward",
            kind="continuous",
            side=side,
        )
