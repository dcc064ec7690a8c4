"""Models that read more of their prompt than builtin:tiny does, for claims about what a prompt brings back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tempering.data.rows import sft_row
from tempering.methods.objectives.nll import NLL
from tempering.proof.claims import Scale
from tempering.proof.small import fingerprint, start, tiny, train
from tempering.types import Message, Policy, Record, Response, Row


def taught(name: str, records: Callable[[], Sequence[Record]], scale: Scale, steps: int, lr: float) -> Policy:
    """builtin:tiny after that many steps of 16 records, the same for all seeds; made once."""
    base = tiny()
    rows: list[Row] = [row for record in records() if (row := sft_row(record, base.tokenizer, max_length=512))]
    inputs = {"name": name, "rows": fingerprint(rows), "steps": scale(steps), "lr": lr}
    return start(inputs, lambda: train(base, NLL(), rows, steps=scale(steps), seed=0, lr=lr))


def conversation(turns: Sequence[tuple[str, str]], answer: str) -> Record:
    """The turns (role, content), answered so."""
    return Record(tuple(Message(*turn) for turn in turns), (Response((Message("assistant", answer),)),))
