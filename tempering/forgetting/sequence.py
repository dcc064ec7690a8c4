"""`temper requests METHOD -n 4`: requests to forget that come one after the other, and what drifts while they do.

The forget rows are cut into as many requests as asked, in their order; each is a run of `temper run forget` that starts from the model the last one
left. After each, what was asked for in this and in all earlier requests is asked for again (an earlier secret may come back), and what is kept is
compared with the very first model, not with the last one: small losses add up.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from tempering import choices
from tempering.config import plain_values
from tempering.errors import UserError
from tempering.execution import leg
from tempering.feed import source
from tempering.forgetting.doors import door_of
from tempering.forgetting.targets import secrets
from tempering.making import best, is_text, spoken
from tempering.stages import content_key, content_of
from tempering.types import Policy, Record, Scores


@dataclass(frozen=True)
class Step:
    """The state after one request (request 0 is the start)."""

    request: int
    folder: str
    out: float | None
    """Share of this request's secrets that come out when asked for plainly."""
    back: float | None
    """Share of all earlier requests' secrets that come out."""
    kept: Mapping[str, float]
    """Probe of the keep side -> its mean score now."""


def cut(records: Sequence[Record], number: int) -> list[list[Record]]:
    """The records in `number` runs of nearly equal length, in their order.

    Raises:
        UserError: fewer records than requests.
    """
    if len(records) < number:
        raise UserError(f"{number} requests of {len(records)} forget rows: give more rows, or fewer requests")
    bounds = [math.floor(i * len(records) / number) for i in range(number + 1)]
    return [list(records[a:b]) for a, b in pairwise(bounds)]


def written(records: Sequence[Record]) -> str:
    """The records as JSON lines that read back as the same prompts and answers."""
    lines = []
    for record in records:
        if is_text(record):
            lines.append({"text": spoken(best(record).messages)})
        else:
            turns = [*record.prompt, *best(record).messages]
            lines.append({"messages": [{"role": m.role, "content": m.content} for m in turns]})
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def steps(
    recipe: Callable[..., Any], values: Mapping[str, Any], method: str, number: int, folder: Path, say: Callable[[str], None]
) -> Iterator[Step]:
    """Carry out the requests one after the other; those that are done are read back."""
    if door_of(values["forget"]) is not None:
        raise UserError(f"forget {values['forget']}: several requests are cut out of rows; give a file of them, or forget one after the other")
    every = list(islice(source(values["forget"], values["shape"], values["limit"], lambda _: None), values["limit"]))
    requests = cut(every, number)
    model, earlier = values["model"], list[Record]()
    # Rows are written for the run and removed after it: what was to be forgotten must not lie in the folder of the runs.
    with tempfile.TemporaryDirectory(prefix="requests-") as scratch:
        for k, records in enumerate(requests, 1):
            rows = Path(scratch) / f"request-{k}.jsonl"
            rows.write_text(written(records), encoding="utf-8")
            arguments = {**values, "method": choices.choice(method)(), "model": model, "forget": str(rows), "forget_test": None, "limit": None}
            place = folder / f"request-{k}-{_key(arguments)}"
            leg(recipe, arguments, place, "temper requests")
            rows.unlink()
            scores = _read(place / "after.scores.json")
            if k == 1:
                yield Step(0, "", None, None, _kept(_read(place / "before.scores.json")))
            yield Step(k, str(place), _asked_of(scores), _again(place / "model", earlier, values), _kept(scores))
            earlier += records
            model = _merged(place)
            say(f"  [{k}/{number}] {len(records)} rows")


def _key(arguments: Mapping[str, Any]) -> str:
    plain = plain_values(arguments)
    for name in ("model", "forget", "retain", "retain_test", "oracle"):
        plain[name] = content_of(plain[name]) or plain[name] if plain[name] else None
    return content_key({"request": plain})[:10]


def _merged(place: Path) -> str:
    """The model as plain weights, so that the next request's adapter does not lie on this one's."""
    from tempering import models

    folder = place / "merged"
    if not folder.is_dir():
        models.export(place / "model", folder, check=False, say=lambda _: None)
    return str(folder)


def _read(path: Path) -> Scores:
    from pydantic import TypeAdapter

    return TypeAdapter(Scores).validate_json(path.read_bytes())


def _asked_of(scores: Scores) -> float | None:
    return next((1 - sum(i.score for i in p.items) / len(p.items) for p in scores.probes if p.probe == "asked"), None)


def _kept(scores: Scores) -> dict[str, float]:
    return {p.probe: sum(i.score for i in p.items) / len(p.items) for p in scores.probes if p.side == "keep"}


def _again(model: Path, earlier: Sequence[Record], values: Mapping[str, Any]) -> float | None:
    """The share of earlier requests' secrets that this model gives away; kept beside it."""
    if not earlier:
        return None
    from tempering import models
    from tempering.methods.probes.asked import Asked

    file = model.parent / "earlier.json"
    if not file.exists():
        policy: Policy = models.load(str(model), say=lambda _: None)
        of = secrets(earlier, values["budget"].max_test)
        found = Asked(items=of, max_new_tokens=min(256, max(16, max(len(s.answer) for s in of) // 2)))(policy)
        file.write_text(json.dumps({"out": 1 - sum(i.score for i in found.items) / len(found.items), "secrets": len(of)}))
    return float(json.loads(file.read_text())["out"])


def cells(step: Step, start: Step) -> list[str]:
    """One row of the table; changes are against the first model."""
    share = lambda v: "" if v is None else f"{100 * v:.1f}%"  # noqa: E731
    changes = [f"{value:.3f} ({value - start.kept[name]:+.3f})" if step.request else f"{value:.3f}" for name, value in step.kept.items()]
    return ["start" if not step.request else str(step.request), share(step.out), share(step.back), *changes]


def headings(start: Step) -> list[str]:
    """Names of the table's columns."""
    return ["request", "its secrets come out", "earlier ones come out", *start.kept]


def plain(found: Sequence[Step]) -> list[dict[str, Any]]:
    """As JSON can hold them."""
    return [asdict(step) for step in found]
