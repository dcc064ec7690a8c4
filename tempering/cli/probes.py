"""Probes as they are typed: `--probe quick`, `--probe arithmetic`, `--probe multiple_choice:my.jsonl,limit=100`, `--probe lm-eval:arc_easy`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tempering import index
from tempering.cli.fields import with_limits
from tempering.cli.values import Given, check
from tempering.errors import UserError

if TYPE_CHECKING:
    from tempering.types import Policy, Probe

BATTERIES = ("default", "quick")


def find_probes(names: Sequence[str], policy: Policy | None) -> tuple[Probe, ...]:
    """The probes of a list of names: a battery, a probe of the default battery, or a kind of probe with its items and fields.

    Args:
        names: as typed; none stands for the default battery.
        policy: chooses the battery.

    Raises:
        UserError: no probe has the name, a field is unknown or wrong, or items are missing.
    """
    from tempering.measure import keep_battery

    found: dict[str, Probe] = {}
    for text in names or ("default",):
        head, colon, rest = text.partition(":")
        kind = "lm_eval_task" if head in ("lm-eval", "lm_eval") else head.replace("-", "_")
        if head in BATTERIES and not colon:
            new: Iterable[Probe] = keep_battery(policy, quick=head == "quick")
        else:
            new = [_one(text, kind, rest, policy)]
        for probe in new:
            if found.setdefault(probe.name, probe) != probe:
                raise UserError(f"--probe {text}: another probe is called {probe.name!r} already; give this one a name, --probe {text},name=...")
    return tuple(found.values())


def _one(text: str, kind: str, rest: str, policy: Policy | None) -> Probe:
    from tempering.measure import keep_battery

    battery = {probe.name: probe for probe in keep_battery(policy)}
    by_typed = {name.replace(" ", "_").replace("-", "_"): probe for name, probe in battery.items()}
    if not rest and kind.replace(" ", "_") in by_typed:
        return by_typed[kind.replace(" ", "_")]
    kinds = {entry.name: entry for entry in index.methods("probe")}
    if kind not in kinds:
        known = [*BATTERIES, *battery, *kinds]
        raise UserError(
            f"--probe {text}: there is no probe {kind!r}{index.closest(kind, known)}; there are {', '.join(sorted(set(known)))}, lm-eval:TASK"
        )
    return built("--probe", text, kind, index.load(kinds[kind]), rest)


def built(flag: str, text: str, kind: str, cls: Any, rest: str) -> Any:
    """A value as it is typed: `kind:MAIN,field=value`, where MAIN is its items or the first field that it needs.

    Args:
        flag: what it was typed after, for messages; empty for an argument.
        text: all that was typed.
        kind: its name.
        cls: its class.
        rest: what stands behind the name.

    Raises:
        UserError: a field is unknown, wrong or missing.
    """
    flag = f"{flag} " if flag else ""
    main = (
        "items" if "items" in cls.model_fields else next((n for n, info in cls.model_fields.items() if info.is_required() and n != "name"), "items")
    )
    values: dict[str, Any] = {}
    for i, part in enumerate(p for p in re.split(r"(?<!\\),", rest) if p):
        name, equals, value = part.partition("=")
        if not equals:
            if i:
                raise UserError(f"{flag}{text}: expected field=value after a comma, got {part!r}")
            name, value = main, part
        if name not in cls.model_fields or name == "kind":
            fields = [n for n in cls.model_fields if n != "kind"]
            raise UserError(f"{flag}{text}: {kind} has no field {name!r}{index.closest(name, fields)}; it has {', '.join(fields)}")
        info = cls.model_fields[name]
        hint = str if name == main else with_limits(info)
        values[name] = check(Given((name,), value, f"{flag}{text}"), hint)
    for name, info in cls.model_fields.items():
        if info.is_required() and name not in values:
            how = f"{flag}{kind}:FILE.jsonl or keep:NAME" if name == "items" else f"{flag}{kind}:..."
            raise UserError(f"{flag}{text}: {kind} needs {name}; give it as {how}")
    try:
        return cls(**values)
    except ValidationError as error:
        raise UserError(f"{flag}{text}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
