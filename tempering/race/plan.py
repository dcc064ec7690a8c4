"""What is raced, and the data cut so that a learning rate is never chosen on the rows that decide.

Rows are cut by their prompt, in the order of its SHA-256: the same prompt never stands on two sides, and the cut does not depend on the order of the
file. A world (`world:preferences`) gives every seed data of its own, so that the spread over seeds is that of the data too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tempering import index
from tempering.errors import UserError
from tempering.home import write_atomic
from tempering.types import Message, Record

FAMILIES = ("pairs", "tokens", "unpaired", "ranked")
TUNING_SEED = 1000
"""Of the runs that choose a learning rate: none of the seeds that count."""
WORLD_ROWS = {"train": 1200, "valid": 200, "test": 300}
MOST_HELD = 300
_UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}


@dataclass(frozen=True)
class Files:
    """Paths of one cut."""

    train: str
    valid: str
    test: str


@dataclass(frozen=True)
class Plan:
    """A race: everything that decides its outcome."""

    methods: tuple[str, ...]
    """Objectives of one family by name; the others are compared with the first."""
    tokens: int
    """Trained and context tokens that each run of the policy sees."""
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    data: str
    test: str | None
    values: Mapping[str, Any]
    """The recipe's other arguments, the same for all methods."""
    shape: str = "auto"
    limit: int | None = None
    keep: str = "quick"
    held: float = 0.1
    """Share of the prompts that go to each side that is cut off."""
    gain: Literal["accuracy", "margin"] = "accuracy"
    """What of held rows counts: the target's own score, or for pairs by how much likelier per token the better answer is than the other."""


def tokens_of(text: str) -> int:
    """A budget as people write it: "2000000tokens", "2M", "500k tokens".

    Raises:
        UserError: it is none.
    """
    match = re.fullmatch(r"\s*([\d_,]*\.?\d+)\s*([kKmMbB]?)\s*(tokens?)?\s*", text)
    count = float(match[1].replace("_", "").replace(",", "")) * _UNITS[match[2].lower()] if match else 0
    if count < 1:
        raise UserError(f"--budget: expected a number of tokens, for example 2000000tokens or 2M, got {text!r}")
    return int(count)


def family_of(methods: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """(the one family of these objectives, their names as files have them).

    Raises:
        UserError: fewer than two, one twice, unknown ones, or of several families.
    """
    entries = [index.find(name, "objective") for name in methods]
    names = tuple(entry.name for entry in entries)
    if len(names) < 2:
        raise UserError("temper race needs at least two methods, for example `temper race dpo ipo --budget 200k`")
    if len(set(names)) < len(names):
        raise UserError(f"temper race: {next(n for n in names if names.count(n) > 1)} is given twice; keep one")
    families = {entry.family or "(none)": entry.name for entry in reversed(entries)}
    if len(families) > 1:
        shown = ", ".join(f"{name} is of {family}" for family, name in families.items())
        raise UserError(f"temper race: methods of several families do not see the same rows ({shown}); race methods of one family")
    family = next(iter(families))
    if family not in FAMILIES:
        raise UserError(f"temper race: methods of the family {family!r} cannot be raced; known are {', '.join(FAMILIES)}")
    return family, names


def cut(records: Sequence[Record], held: Sequence[str], share: float = 0.1) -> dict[str, list[Record]]:
    """Records as {"train": ..., and each of `held`}: `share` of the prompts for each held side, at most `MOST_HELD`, at least one.

    Raises:
        UserError: not enough different prompts.
    """
    by_prompt: dict[str, list[Record]] = {}
    for record in records:
        by_prompt.setdefault(_prompt_key(record), []).append(record)
    order = sorted(by_prompt, key=lambda key: hashlib.sha256(key.encode()).hexdigest())
    size = max(1, min(MOST_HELD, int(len(order) * share + 1e-9)))  # 0.1 of 10 is 1, whatever floats say.
    if len(order) <= size * len(held):
        raise UserError(
            f"the data has {len(order)} different prompts; a race needs at least {len(held) + 1}, to train, to choose a rate, and to measure"
        )
    sides = {name: order[i * size : (i + 1) * size] for i, name in enumerate(held)} | {"train": order[size * len(held) :]}
    return {name: [record for key in keys for record in by_prompt[key]] for name, keys in sides.items()}


def _prompt_key(record: Record) -> str:
    shown = record.prompt or record.responses[0].messages[:1]
    return json.dumps([(m.role, m.content) for m in shown])


def prepare(plan: Plan, family: str, folder: Path) -> dict[int, Files]:
    """Write the cut data under `folder`; seed -> its files, `TUNING_SEED` among them.

    Raises:
        UserError: unreadable data, or rows that cannot be written down again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    every = (TUNING_SEED, *plan.seeds)
    if plan.data.startswith("world:"):
        if plan.test is not None:
            raise UserError(f"--test {plan.test}: a world brings its own test rows; leave --test out")
        return {seed: _written(_world(plan.data, seed), family, folder / f"seed-{seed}", None) for seed in every}
    test = f"{plan.data}-test" if plan.test is None and plan.data.startswith("builtin:") else plan.test
    sides = cut(_records(plan.data, plan.shape, plan.limit), ("valid",) if test else ("valid", "test"), plan.held)
    files = _written(sides, family, folder, test)
    return dict.fromkeys(every, files)


def _records(data: str, shape: str, limit: int | None) -> list[Record]:
    from itertools import islice

    from tempering.data import read
    from tempering.worlds.demo import demo_records

    return list(islice(demo_records(data) if data.startswith("builtin:") else read(data, shape=shape, limit=limit), limit))


def world_of(data: str, seed: int) -> Any:
    """The world that "world:preferences" or "world:preferences:0.2" (its label noise) names, with this seed.

    Raises:
        UserError: another name, or a noise that is no number.
    """
    from tempering.worlds.preferences import Preferences

    _, name, *more = data.split(":")
    if name != "preferences" or len(more) > 1:
        raise UserError(f"--data {data}: known is world:preferences, with its label noise if wanted: world:preferences:0.2")
    try:
        noise = float(more[0]) if more else 0.1
    except ValueError:
        raise UserError(f"--data {data}: the label noise is a share, for example world:preferences:0.2, not {more[0]!r}") from None
    return Preferences(noise=noise, seed=seed)


def _world(data: str, seed: int) -> dict[str, list[Record]]:
    """Noise is in the training rows only; validation and test share no request with them or with each other."""
    from dataclasses import replace

    world = world_of(data, seed)
    clean = replace(world, noise=0.0)
    held = list(clean.records("test", 6 * (WORLD_ROWS["valid"] + WORLD_ROWS["test"])))
    prompts = sorted({_prompt_key(record) for record in held})
    valid = set(prompts[: len(prompts) // 3])
    sides = {"valid": [r for r in held if _prompt_key(r) in valid], "test": [r for r in held if _prompt_key(r) not in valid]}
    return {name: rows[: WORLD_ROWS[name]] for name, rows in sides.items()} | {"train": list(world.records("train", WORLD_ROWS["train"]))}


def _written(sides: Mapping[str, Sequence[Record]], family: str, folder: Path, test: str | None) -> Files:
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"test": test or ""}
    for name, records in sides.items():
        path = folder / f"{name}.jsonl"
        write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for record in records for row in rows_of(record, family)))
        paths[name] = str(path)
    return Files(**paths)


def rows_of(record: Record, family: str) -> Iterator[dict[str, Any]]:
    """A record as the rows that a family's recipe reads.

    Raises:
        UserError: it has tools, which this form cannot hold.
    """
    messages = [m for r in record.responses for m in (*record.prompt, *r.messages)]
    if record.tools or any(m.tool_calls or m.name for m in messages):
        raise UserError(f"{record.source}: rows with tools cannot be cut by a race; give rows without tools")
    yield from _FORMS[family](record)


def _turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in messages]


def _pair(record: Record) -> Iterator[dict[str, Any]]:
    from tempering.data import pairs

    for i, j in pairs(record, "best_worst")[:1]:
        sides = {"chosen": record.responses[i], "rejected": record.responses[j]}
        scores = {f"{name}_score": side.score for name, side in sides.items() if side.score is not None}
        yield {"prompt": _turns(record.prompt), **{name: _turns(side.messages) for name, side in sides.items()}, **scores}


def _labelled(record: Record) -> Iterator[dict[str, Any]]:
    if all(response.label is None for response in record.responses):
        yield from _pair(record)
    for response in record.responses:
        if response.label is not None:
            yield {"prompt": _turns(record.prompt), "completion": _turns(response.messages), "label": response.label}


def _conversation(record: Record) -> Iterator[dict[str, Any]]:
    from tempering.data import best_response

    messages = (*record.prompt, *record.responses[best_response(record)].messages)
    yield {"text": messages[0].content} if messages[0].role == "text" else {"messages": _turns(messages)}


def _ranked(record: Record) -> Iterator[dict[str, Any]]:
    yield {"prompt": _turns(record.prompt), "responses": [{"response": _turns(r.messages), "score": r.score} for r in record.responses]}


_FORMS: dict[str, Callable[[Record], Iterator[dict[str, Any]]]] = {
    "pairs": _pair,
    "unpaired": _labelled,
    "tokens": _conversation,
    "ranked": _ranked,
}
