"""`temper reshape`: a model made larger or smaller from its weights, and a ledger against what it was."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from tempering.cli.flags import setting
from tempering.cli.merge import kept_of
from tempering.cli.models import Json, Probes, measured, model_of, write_json
from tempering.cli.show import say, show_ledger
from tempering.errors import UserError


def reshape(
    method: str,
    model: str,
    /,
    *,
    out: Path,
    calibration: str = "builtin:demo",
    rows: int = 128,
    keep: Literal["default", "quick", "none"] = "default",
    probe: Probes = None,
    data: str | None = None,
    shape: str = "auto",
    lost: int = 5,
    json_: Json = None,
    **setting: str,
) -> int:
    """Make a model larger or smaller: `temper reshape stack MODEL --times 2 --out DIR`. What is written opens in transformers like any model.

    Args:
        method: how; `temper methods reshape` lists them.
        model: hub id, folder, run folder, .gguf file or builtin name; an adapter is folded in.
        out: a folder that does not exist yet.
        calibration: rows that importance is judged on, for methods that prune.
        rows: how many of them are read.
        keep: the battery that both models are measured on; none skips the ledger.
        probe: probes instead of that battery; may be repeated.
        data: rows to measure the loss on.
        shape: how to read both kinds of rows.
        lost: how many lost items to show with their texts.
        json_: write the ledger to this file.
        setting: the method's own: --times 2, --groups 4, --neurons 0.5, --pattern 2:4.
    """
    from tempering.display import Display
    from tempering.models import load, save
    from tempering.reshaping.run import reshape as run

    value, progress = method_of(method, setting), Display().say
    if rows < 1:
        raise UserError(f"--rows {rows}: expected a number of at least 1")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"--out {out} is there already; choose a new folder or remove this one")
    policy: Any = load(model_of(model), say=progress)
    made = run(policy, value, _rows(policy, calibration, rows, shape) if value.looks else (), say)
    save(made, out)
    say(f"wrote {out}")
    if hasattr(value, "told"):
        say(value.told(policy.model.config.num_hidden_layers))
    if keep == "none" and not probe and data is None:
        return 0
    from tempering.ledger import compare

    before, asked = measured(model, probe or ([keep] if keep != "none" else []), data, shape)
    ledger = compare(before, measured(str(out), [], data, shape, asked)[0])
    show_ledger(ledger, lost)
    say()
    say(kept_of(ledger))
    if json_ is not None:
        import json

        write_json(json_, json.loads(ledger.to_json()))
    return 0


def method_of(name: str, given: dict[str, str]) -> Any:
    """A reshape by its name and settings as they are typed.

    Raises:
        UserError: no method has the name, or it has no such setting, or not with this value.
    """
    from tempering import index

    entry = index.find(name, "reshape")
    cls = index.load(entry)
    known = index.settings(cls)
    hints = typing.get_type_hints(cls, include_extras=True)
    values: dict[str, Any] = {}
    for flag, text in given.items():
        key = setting("reshape", flag, entry.name, known)
        try:
            values[key] = TypeAdapter(hints[key]).validate_python(text)
        except ValidationError as error:
            raise UserError(f"--{flag} {text}: {error.errors()[0]['msg'].lower()}") from None
    return cls(**values)


def _rows(policy: Any, calibration: str, count: int, shape: str) -> list[list[int]]:
    from itertools import islice

    from tempering.data import sft_row
    from tempering.display import Display
    from tempering.feed import source

    made = (sft_row(record, policy.tokenizer) for record in source(calibration, shape, None, Display().say))
    rows = [segment.ids.tolist() for row in islice((row for row in made if row is not None), count) for segment in row["train"]]
    if not rows:
        raise UserError(f"--calibration {calibration}: no row is usable; look with `temper check {calibration}`")
    return rows
