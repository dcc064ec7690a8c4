"""The model card: README.md of a saved model, so that what it gained and lost travels with the weights.

YAML front matter as model hubs read it, then the ledger in short, where the data came from, the command and the versions. Names and texts in it are
untrusted and the file is rendered as Markdown by others, so that text is escaped, never trusted to be harmless; YAML is written by a YAML library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from tempering.ledger_types import Ledger, ProbeChange, percent
from tempering.report.folder import flatten, setting
from tempering.report.words import shorten, visible

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
KNOWN = {"builtin:smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Where a builtin model came from, as a hub names it."""
_SPECIAL = re.compile(r"([\\`*_\[\]|#~$!])")
_LINK = re.compile(r"(?i)(:)(?=//)|(?<=www)(\.)")


def render_card(config: Mapping[str, Any], lock: Mapping[str, Any], ledger: Ledger | Mapping[str, Any] | None, command: str) -> str:
    """See `tempering.report.model_card`."""
    if isinstance(ledger, Mapping):
        ledger = Ledger.from_json(json.dumps(ledger), name="the ledger of the model card")
    model, recipe = str(setting(config, "model") or "a model"), str(setting(config, "recipe") or "")
    name = model.removeprefix("builtin:").rstrip("/").rsplit("/", 1)[-1]
    parts = [_front_matter(config, model, recipe), f"# {escape_markdown(name)}{', ' + escape_markdown(recipe) if recipe else ''}"]
    made = f"{code(model)} after {code(recipe)}" if recipe else f"made from {code(model)}"
    data = setting(config, "data")
    parts.append(f"{made[:1].upper()}{made[1:]}{' on ' + code(str(data)) if data else ''}, with tempering.")
    parts += ledger_markdown(ledger) if ledger is not None else ["It was not measured: there is no ledger."]
    parts += _provenance(lock, command)
    return "\n\n".join(parts) + "\n"


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line: no emphasis, links, HTML, table cells or headings come out of it."""
    flat = " ".join(visible(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _LINK.sub(lambda match: "\\" + match[0], _SPECIAL.sub(r"\\\1", flat))


def code(text: str) -> str:
    """Text as a code span, inside or outside a table: the fence is longer than any run of backticks in it."""
    flat = " ".join(visible(text).split()).replace("|", "\u2223")
    fence = "`" * (1 + max((len(run) for run in re.findall(r"`+", flat)), default=0))
    pad = " " if flat[:1] == "`" or flat[-1:] == "`" else ""
    return f"{fence}{pad}{flat or ' '}{pad}{fence}"


def _front_matter(config: Mapping[str, Any], model: str, recipe: str) -> str:
    scope = setting(config, "scope")
    kind = scope.get("kind") if isinstance(scope, Mapping) else scope
    # A reward model is saved whole, adapters folded in.
    rewards = recipe == "reward"
    adapter = kind not in (None, "full") and not rewards
    base = KNOWN.get(model) or (model if HUB_ID.fullmatch(model) else None)
    data = setting(config, "data")
    front: dict[str, Any] = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-classification" if rewards else "text-generation",
        "tags": ["tempering", *(visible(str(tag)) for tag in (recipe, kind) if tag)],
    }
    if base:
        front["base_model"] = base
        front["base_model_relation"] = "adapter" if adapter else "finetune"
    if isinstance(data, str) and HUB_ID.fullmatch(data) and "." not in data.rsplit("/", 1)[-1]:
        front["datasets"] = [data]
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip()}\n---"


def ledger_markdown(ledger: Ledger) -> list[str]:
    """The ledger in short, as blocks of Markdown: the sentence, a row for each probe, the gates."""
    rows = ["| probe | items | before | after | change | interval | kept | gained / lost | verdict |", "|---|---:|---:|---:|---:|---|---:|---:|---|"]
    rows += [_row(probe) for probe in sorted(ledger.probes, key=lambda probe: probe.side != "target")]
    parts = ["## What it gained and lost", escape_markdown(ledger.sentence()), "\n".join(rows)]
    parts.append("Item by item against the model it was made from. Changes of shares are in points; target probes come first.")
    if ledger.gates:
        parts.append("\n".join(f"- {escape_markdown(gate.message)}" for gate in ledger.gates))
    return parts


def _row(probe: ProbeChange) -> str:
    unit = "%" if probe.kind == "binary" else ""
    low, high = (None if end is None else probe.show(end, sign=True) for end in (probe.difference.low, probe.difference.high))
    cells = [
        f"{escape_markdown(probe.name)} ({probe.side})",
        str(probe.n),
        probe.show(probe.before.point) + unit,
        probe.show(probe.after.point) + unit,
        probe.show(probe.difference.point, sign=True),
        f"{probe.difference.level:.0%}: {low or '…'} to {high or '…'}",
        percent(probe.keep.point) if probe.keep else "",
        f"{len(probe.gained_ids)} / {len(probe.lost_ids)}",
        escape_markdown(probe.verdict),
    ]
    return f"| {' | '.join(cells)} |"


def _provenance(lock: Mapping[str, Any], command: str) -> list[str]:
    parts = []
    for heading, value in (("Data fingerprint", lock.get("data")), ("Versions", lock.get("versions"))):
        rows = flatten(value)
        if rows:
            parts += [f"## {heading}", "\n".join(f"- {escape_markdown(key)}: {code(shorten(text, 300))}" for key, text in rows)]
    if command:
        text = visible(command)
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
        parts += ["## Command", f"{fence}sh\n{text}\n{fence}"]
    return parts
