"""Hand-worked cases: what an objective gives for numbers small enough to check on paper.

A method's file ends with `CASES = (Case(...), ...)`. The contract tests compute every case through the engine's own reduction, and a mutation pass
changes the method's code (a sign, a mask, a normaliser) and expects some case to notice. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tempering.merges import Informed, Merge
from tempering.types import Message, Objective, Record, Response

Nested = Sequence[Any]
"""Numbers by segment: [S][T_s] per token, [S][T_s][V] for logits, or a flat [S] for a column per segment."""


@dataclass(frozen=True)
class Case:
    """One hand-worked input of an objective and what comes of it. Expected numbers come from paper or `math`, never from the code under test."""

    what: str
    """What the case is there to show: "the pair stands in the wrong order"."""
    objective: Objective
    signals: Mapping[str, Mapping[str, Nested]]
    """part -> signal or column of the batch -> numbers."""
    loss: float
    """The step's loss, after the division by the objective's own norm."""
    weights: Mapping[str, Nested] = field(default_factory=dict)
    """part -> token weights [S][T_s]; 1 everywhere by default."""
    groups: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """part -> the group of each segment [S]; 0, 1, ... by default."""
    gradient: Mapping[str, Nested] = field(default_factory=dict)
    """By name, "chosen/logp" -> d loss / d signal, nested as the signal is; only what was worked out."""
    logs: Mapping[str, float] = field(default_factory=dict)
    """Logged name -> mean."""
    step: int = 0
    """The optimizer step (0-based), for losses that know it."""
    state: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """What the objective kept from earlier steps, by name; where a name is not given, its `initial`."""


@dataclass(frozen=True)
class RecordCase:
    """Records that go into a method of the folder streams, and those that must come out of it, written by hand."""

    what: str
    """What the case is there to show."""
    method: Any
    """The value, for example LeMa()."""
    records: Sequence[Record]
    expected: Sequence[Record]
    """What comes out, in order; compared by prompt, responses and pairs (ids, sources and tags are checked for all methods alike)."""
    tags: Sequence[Mapping[str, Any]] = ()
    """By made record, tags that must be there with this value."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Reason -> how many records are left out."""
    answers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The text of a prompt -> what the model answers it."""
    marks: Mapping[str, float] = field(default_factory=dict)
    """The text of an answer -> the judge's mark."""
    memory: Mapping[str, Any] = field(default_factory=dict)
    """What the method kept from earlier rounds."""
    seed: int = 0


@dataclass(frozen=True)
class MergeCase:
    """One tensor of several models that go into a method of the folder merges, and what must come out of it, worked out by hand."""

    what: str
    """What the case is there to show."""
    method: Merge | Informed
    """The value, for example TIES(density=0.5)."""
    tensors: Sequence[Nested]
    """Of each model but the base."""
    expected: Nested
    base: Nested | None = None
    uniform: Sequence[float] = ()
    """The random numbers that it draws, in order."""
    known: Sequence[Nested | None] = ()
    """Of a method that looks at data (`merges.Informed`): the statistic of each of `tensors`."""


def talk(*turns: str, answers: Sequence[str] = (), better: Sequence[tuple[int, int]] = (), id: str = "", **tags: Any) -> Record:
    """A record in few words: turns of user and assistant, the last of which is the response.

    With `answers` all turns are the prompt and each text is a response of one turn; a response of several turns is written as a record without.
    """
    made = tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(turns))
    if answers:
        return Record(made, tuple(Response((Message("assistant", text),)) for text in answers), tuple(better), id or turns[0], "", tags)
    return Record(made[:-1], (Response(made[-1:]),), (), id or turns[0], "", tags)


def plain(text: str, id: str = "", **tags: Any) -> Record:
    """A plain text as a record."""
    return Record((), (Response((Message("text", text),)),), (), id or text, "", tags)
