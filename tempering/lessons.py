"""Made records of a run: split, made once, kept in the run folder, and told to the user.

The split comes first, by record, so that nothing that is made of a training record is measured. What is made lies in the run folder as JSON lines
(`made/records.jsonl`), where it can be read, and is a stage: a resumed run asks the model nothing twice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.errors import UserError
from tempering.making import PHASE, Ask, Maker, Making
from tempering.types import Record

if TYPE_CHECKING:
    from tempering.types import Policy

FILE, LOST, MEMORY = "records.jsonl", "lost.json", "memory.json"


@dataclass(frozen=True)
class Made:
    """Records in memory that can be read like a file of them."""

    name: str
    records: tuple[Record, ...]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the records, hex."""
        import hashlib

        return hashlib.sha256(to_lines(self.records).encode()).hexdigest()

    def phases(self) -> list[Made]:
        """The records by the time at which they are trained."""
        times = sorted({int(record.tags.get(PHASE, 0)) for record in self.records})
        return [Made(self.name, tuple(r for r in self.records if int(r.tags.get(PHASE, 0)) == time)) for time in times]


def to_lines(records: Sequence[Record]) -> str:
    """Records as JSON lines."""
    from pydantic import TypeAdapter

    adapter = TypeAdapter(Record)
    return "".join(f"{adapter.dump_json(record).decode()}\n" for record in records)


def from_lines(text: str) -> tuple[Record, ...]:
    """Records of `to_lines`."""
    from pydantic import TypeAdapter

    adapter = TypeAdapter(Record)
    return tuple(adapter.validate_json(line) for line in text.splitlines())


def split(records: Sequence[Record], most: int, seed: int) -> tuple[list[Record], list[Record]]:
    """(to train on, held out): a tenth of the records, at most `most`, chosen by seed; records with one prompt stay together.

    Raises:
        UserError: there is nothing to hold out.
    """
    groups: dict[Any, list[int]] = {}
    for i, record in enumerate(records):
        groups.setdefault(record.prompt or i, []).append(i)
    if len(groups) < 2:
        raise UserError(f"{len(groups)} prompt or text; at least 2 are needed (one to train on, one to hold out), or give held-out rows with --test")
    order = Making(seed).random("held").sample(list(groups.values()), len(groups))
    size, held = max(1, min(most, len(records) // 10)), set[int]()
    for group in order[:-1]:
        if len(held) >= size:
            break
        held |= set(group)
    return [r for i, r in enumerate(records) if i not in held], [r for i, r in enumerate(records) if i in held]


def divided(run: Any) -> tuple[list[Record], list[Record], dict[str, Any]]:
    """(records to make lessons of, held-out ones, what the two depend on) of an opened `Experiment`, whose values name the data, the test rows, the
    shape, the limit and the seed.

    Raises:
        UserError: the data cannot be read, or nothing can be held out.
    """
    v = run.values
    data, test, seed = v["data"], v["test"], int(v["seed"])
    source = run.source(data, v["shape"], v["limit"])
    records = list(islice(source, v["limit"]))
    if test is None and data.startswith("builtin:"):
        test = f"{data}-test"
    if test is not None:
        held = list(run.source(test, v["shape"], None))[: v["budget"].max_test]
    else:
        records, held = split(records, v["budget"].max_test, seed)
        run.display.say(f"held out {len(held)} records to measure with (--test gives your own)")
    return (
        records,
        held,
        {"data": source.fingerprint, "limit": v["limit"], "test": test, "seed": seed, "model": v["model"], "teacher": v.get("teacher")},
    )


def build(
    run: Any,
    make: Maker,
    name: str,
    records: Sequence[Record],
    inputs: dict[str, Any],
    ask: Ask,
    memory: dict[str, Any] | None = None,
    teach: Ask | None = None,
) -> Made:
    """What a method makes of records, once: a stage of the run, told to the user.

    Args:
        inputs: what it depends on beside the method and the records.
        memory: of a method that goes round by round; it is changed to what the method keeps.
        teach: a teacher beside the model.

    Raises:
        UserError: nothing could be made of them.
    """
    v, memory = run.values, {} if memory is None else memory
    data = v["data"] if "data" in v else v["env"].name

    def work(folder: Path) -> None:
        making = Making(int(v["seed"]), ask, run.judge(), teach, memory=json.loads(json.dumps(memory)))
        made = list(make(records, making))
        (folder / FILE).write_text(to_lines(made), encoding="utf-8")
        (folder / LOST).write_text(json.dumps({"dropped": making.dropped, "lost": making.lost}, indent=1), encoding="utf-8")
        (folder / MEMORY).write_text(json.dumps(making.memory), encoding="utf-8")

    inputs = {**inputs, "make": make.model_dump(mode="json"), "records": Made("", tuple(records)).fingerprint, "memory": memory}
    folder = run.stage(name, inputs, work)
    made = Made(f"{data} as {make.name} makes it", from_lines((folder / FILE).read_text(encoding="utf-8")))
    memory.update(json.loads((folder / MEMORY).read_text(encoding="utf-8")))
    dropped = json.loads((folder / LOST).read_text(encoding="utf-8"))["dropped"]
    told = "".join(f"; {n} left out ({reason})" for reason, n in sorted(dropped.items()))
    run.display.say(f"{make.name}: {len(records)} records became {len(made)}{told} ({folder / FILE})")
    if not made:
        raise UserError(f"{data}: {make.name} made nothing of {len(records)} records{told}")
    return made


def lessons(run: Any, policy: Policy, make: Maker) -> tuple[list[Made], Made]:
    """What a run trains on, by phase, and what it is measured on.

    Args:
        run: as for `divided`.

    Raises:
        UserError: the data cannot be read, or nothing could be made of them.
    """
    records, held, inputs = divided(run)
    train = build(run, make, "made", records, inputs, run.ask(policy))
    measured = Made(run.values["data"], tuple(held)) if make.held == "plain" else build(run, make, "made-held", held, inputs, run.ask(policy))
    return train.phases(), measured


def steps_by_phase(sizes: Sequence[int], batch_size: int, epochs: float, steps: int | None) -> list[int]:
    """Optimizer steps of each phase: `epochs` over its rows, or its share of `steps`, at least one."""
    if steps is None:
        return [max(1, math.ceil(epochs * size / batch_size)) for size in sizes]
    ends = [round(steps * sum(sizes[: i + 1]) / sum(sizes)) for i in range(len(sizes))]
    return [max(1, end - start) for start, end in zip([0, *ends], ends, strict=False)]
