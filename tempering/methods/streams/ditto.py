"""DITTO: a handful of demonstrations is preferred to what the model writes, now and before, and what it writes now to what it wrote before.

Shaikh et al. 2024, "Show, Don't Tell", arXiv 2406.00888; the numbers are those of the released code (the temperature is not). The start model is one
that was fine-tuned on the demonstrations (`temper run sft` first), and stays the reference. Each round draws samples of the current policy, and the
comparisons are

    demonstration > current sample,   demonstration > earlier sample (replay),   later sample > earlier sample

in shares of 70, 20 and 10%. The shares are caps: the first kind is all there is of it, and the others are drawn by seed up to their share beside it;
so a first round has the first kind only. The shares hold for the pairs of a round, not for each batch. Fine-tuning until the loss is below 1, which
is the paper's start, is left to the user.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from tempering.cases import RecordCase, talk
from tempering.making import Maker, Making, answer, best, made, spoken
from tempering.types import Record

FAMILY = "rounds"
CATALOGUE = ("S108",)
PAPER = {"optimizer.lr": "1e-6 (released code, Mistral-7B)", "scope.r": "32 (released code)", "rounds": "4 of 10 steps (released code)"}


class DITTO(Maker):
    """Demonstrations over samples, later samples over earlier ones."""

    kind: Literal["ditto"] = "ditto"
    samples: Annotated[int, Field(ge=1)] = 10
    """Samples of the current policy for each prompt and round."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of the samples."""
    shares: tuple[float, float, float] = (0.7, 0.2, 0.1)
    """Of pairs with current samples, with earlier ones, and between samples."""

    overrides: ClassVar[dict[str, Any]] = {"loss.beta": 0.05, "reference": "start", "every": 10}
    held = "made"

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """All pairs with current samples, then the others; `memory["samples"]` holds the samples of each round by record."""
        records = list(records)
        kept: dict[str, list[list[str]]] = making.memory.setdefault("samples", {})
        asked = making.ask([record.prompt for record in records], self.samples, self.temperature) if records else []
        kinds: dict[str, list[tuple[Record, str, str, str]]] = {"current": [], "earlier": [], "between": []}
        for record, now in zip(records, asked, strict=True):
            rounds = kept.setdefault(record.id, [])
            rounds.append(list(dict.fromkeys(now)))
            demo, last = spoken(best(record).messages), len(rounds) - 1
            for t, texts in enumerate(rounds):
                kinds["current" if t == last else "earlier"] += [
                    (record, f"demo-{t}-{i}", demo, text) for i, text in enumerate(texts) if text != demo
                ]
                kinds["between"] += [
                    (record, f"{t}-{s}-{i}-{j}", later, earlier)
                    for s in range(t)
                    for i, later in enumerate(texts)
                    for j, earlier in enumerate(rounds[s])
                    if later != earlier
                ]
            if not any(one is record for one, *_ in kinds["current"]):
                making.drop(record, "the model writes the demonstration")
        number = max(map(len, kept.values()), default=0)
        for kind, share in zip(kinds, self.shares, strict=True):
            pairs = [pair for pair in kinds[kind] if pair[0].id not in making.lost]
            if kind != "current":
                # 0.2 / 0.7 of 7 is 2, whatever floats say.
                most = min(len(pairs), int(len(kinds["current"]) * share / self.shares[0] + 1e-9))
                pairs = [pairs[i] for i in sorted(making.random(kind, number).sample(range(len(pairs)), most))]
            for record, what, good, bad in pairs:
                yield made(record, what, record.prompt, [answer(good), answer(bad)], better=((0, 1),), compared=kind)


def _pair(prompt: str, good: str, bad: str) -> Record:
    return talk(prompt, answers=[good, bad], better=[(0, 1)])


_TWO = [talk("Hi", "hello", id="hi"), talk("Bye", "see you", id="bye")]
CASES = (
    RecordCase(
        "a first round: the demonstration over each other text once",
        DITTO(samples=3),
        _TWO,
        [_pair("Hi", "hello", "yo"), _pair("Bye", "see you", "bye"), _pair("Bye", "see you", "so long")],
        tags=[{"compared": "current"}] * 3,
        answers={"Hi": ["yo", "hello", "yo"], "Bye": ["bye", "so long", "bye"]},
    ),
    RecordCase(
        "a third round with room for all: earlier samples lose to the demonstration, and to later ones of other words",
        DITTO(samples=2, shares=(0.2, 0.3, 0.5)),
        _TWO[:1],
        [
            *(_pair("Hi", "hello", x) for x in "cdab"),
            *(_pair("Hi", later, earlier) for later, earlier in ("ba", "ca", "da", "cb", "db")),
        ],
        tags=[{"compared": kind} for kind in ("current", "current", "earlier", "earlier", *["between"] * 5)],
        answers={"Hi": ["c", "d"]},
        memory={"samples": {"hi": [["a"], ["b"]]}},
    ),
    RecordCase(
        "7 pairs with current samples leave room for 2 with earlier ones and 1 between samples",
        DITTO(samples=7),
        _TWO[:1],
        [*(_pair("Hi", "hello", x) for x in "abcdefg"), _pair("Hi", "hello", "x"), _pair("Hi", "hello", "y"), _pair("Hi", "a", "x")],
        answers={"Hi": list("abcdefg")},
        memory={"samples": {"hi": [["x", "y", "z"]]}},
    ),
    RecordCase(
        "a model that writes the demonstration has nothing to learn",
        DITTO(samples=2),
        _TWO,
        [_pair("Bye", "see you", "bye"), _pair("Bye", "see you", "so long")],
        answers={"Hi": ["hello", "hello"], "Bye": ["bye", "so long"]},
        memory={"samples": {"hi": [["yo"]]}},
        dropped={"the model writes the demonstration": 1},
    ),
    RecordCase("no demonstrations, no pairs", DITTO(), [], []),
)
