"""`report.html`: one run on one page that opens anywhere, loads nothing, and can be sent to somebody.

Python decides what is shown and in which words, the templates how; style.css is put into the page. Everything in a run folder is untrusted: model
output, data and even names are escaped, and the page runs no script and loads nothing (closed.py). The same folder always gives the same bytes.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from tempering.errors import UserError
from tempering.ledger_types import ItemChange, Ledger, ProbeChange, number, percent, points
from tempering.report import charts, closed, curves, forgotten
from tempering.report.charts import Line
from tempering.report.curves import say
from tempering.report.doctor import diagnose
from tempering.report.folder import RunFolder, Sample, flatten, read, setting
from tempering.report.words import shorten, word_diff

SHOWN_ITEMS = 20
SHOWN_SAMPLES = 4
MAX_SAMPLES = 40

TITLES = {
    "loss": "Loss", "nll": "Negative log-likelihood", "margin": "Margin", "accuracy": "Accuracy", "lr": "Learning rate",
    "grad_norm": "Gradient norm", "tokens_per_s": "Tokens per second", "kl": "KL", "reward": "Reward", "entropy": "Entropy",
}  # fmt: skip
PAIRS = {"chosen_logp": ("rejected_logp", "Log-probs of the answers"), "chosen_reward": ("rejected_reward", "Implicit rewards")}
LAST = ("lr", "grad_norm", "tokens_per_s")
"""How it ran, after what it learned."""


def write_report(folder: Path) -> Path:
    """See `tempering.report.write`."""
    page = render(read(folder))
    target = folder / "report.html"
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".report.html.", suffix=".part")
        with os.fdopen(handle, "wb") as file:
            file.write(page.encode("utf-8", errors="replace"))
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise UserError(
            f"{target} could not be written ({error.strerror}); free some space or make the folder writable, then report again."
        ) from None
    return target


def render(run: RunFolder) -> str:
    """The page as a string."""
    filters = {"ticked": _ticked, "points": points, "percent": percent, "number": number, "shorten": shorten}
    ledger = run.ledger
    context = {
        "run": run,
        "title": title(run.config, run.path),
        "facts": _facts(run),
        "ledger": ledger,
        "tiles": _tiles(run),
        "gates": [(gate, gate.message.split(": ", gate.gate.count(": ") + 1)[-1]) for gate in ledger.gates] if ledger else [],
        "probes": _probes(ledger) if ledger else [],
        "bound": f"{_bound(ledger) * 100:.0f}" if ledger else "",
        "stages": _stages(run),
        "forgotten": forgotten.section(run.forgotten) if run.forgotten else None,
        "samples": [_sample(sample) for sample in run.samples[:MAX_SAMPLES]],
        "shown_samples": SHOWN_SAMPLES,
        "lost": _items(ledger, "lost") if ledger else None,
        "gained": _items(ledger, "gained") if ledger else None,
        "cost": _cost(run),
        "data": flatten(run.lock.get("data")),
        "lock": flatten({key: value for key, value in run.lock.items() if key not in ("data", "command")}),
        "settings": json.dumps(run.config, indent=2, ensure_ascii=False, default=str),
    }
    return closed.page("tempering.report", "report.html.jinja", filters=filters, **context)


def _ticked(text: str) -> Markup:
    """Words between backticks as <code>."""
    parts = text.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(parts))


# ----------------------------------------------------------------------------------------------------------------------------------- the top


def title(config: Mapping[str, Any], path: Path) -> str:
    """ "dpo: smollm2-135m": the recipe and what it tuned; the folder's name where the config does not say."""
    recipe, model = setting(config, "recipe"), setting(config, "model")
    parts = [part for part in (recipe, _short(model)) if isinstance(part, str) and part]
    return ": ".join(parts) or path.resolve().name


def _short(model: Any) -> str:
    return model.removeprefix("builtin:").rstrip("/").rsplit("/", 1)[-1] if isinstance(model, str) else ""


def _facts(run: RunFolder) -> list[tuple[str, str]]:
    scope = setting(run.config, "scope")
    kind = scope.get("kind") if isinstance(scope, Mapping) else scope
    facts = [
        ("model", setting(run.config, "model")), ("data", setting(run.config, "data")), ("scope", kind), ("seed", setting(run.config, "seed")),
        ("started", _date(run.status.get("started"))), ("took", _time(run.seconds)),
    ]  # fmt: skip
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _date(value: Any) -> str:
    """A time in ISO 8601 to the minute; anything else as it is."""
    try:
        return datetime.fromisoformat(value).strftime("%Y-%m-%d %H:%M %Z").strip() if isinstance(value, str) else ""
    except ValueError:
        return str(value)


def _tiles(run: RunFolder) -> list[tuple[str, str, str]]:
    """(label, value, small print) of the three or four numbers that a reader wants first."""
    ledger, tiles = run.ledger, []
    if ledger is None:
        return []
    if ledger.gain is not None:
        single = next((probe for probe in ledger.on("target") if probe.name == ledger.gain_on), None)
        unit = single is None or single.kind == "binary"
        show = (lambda v: points(v, sign=True)) if unit else (lambda v: number(v, sign=True))
        tiles.append(
            (f"Gain on {ledger.gain_on}", show(ledger.gain.point), _between(ledger.gain.low, ledger.gain.high, show) + (" points" if unit else ""))
        )
    if ledger.keep is not None:
        small = f"of {ledger.keep_items:,} items right before" + (f"; at least {percent(ledger.keep.low)}" if ledger.keep.low is not None else "")
        tiles.append(("Kept", percent(ledger.keep.point), small))
    if "kl_per_token" in ledger.kl:
        tiles.append(("Moved", number(ledger.kl["kl_per_token"]), "nats per token from the start model (KL)"))
    if ledger.cost:
        seconds = ledger.cost.get("seconds", run.seconds)
        small = [f"{ledger.cost['tokens']:,.0f} tokens" if "tokens" in ledger.cost else ""]
        small.append(f"{ledger.cost['peak_memory_gib']:.1f} GiB" if "peak_memory_gib" in ledger.cost else "")
        tiles.append(("Cost", _time(seconds) or "n/a", ", ".join(part for part in small if part)))
    return tiles


def _between(low: float | None, high: float | None, show: Any) -> str:
    return f"{'…' if low is None else show(low)} to {'…' if high is None else show(high)}"


# --------------------------------------------------------------------------------------------------------------------------------- the ledger


def _bound(ledger: Ledger) -> float:
    """Both ends of the shared scale of binary probes: the widest interval, rounded up to 5 points."""
    ends = [abs(end) for probe in ledger.probes if probe.kind == "binary" for end in _ends(probe)]
    return max(1, -(-max(ends, default=0.0) * 100 // 5)) * 5 / 100


def _round_up(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if factor * power >= value)


def _ends(probe: ProbeChange) -> list[float]:
    better = probe.improvement
    return [end for end in (better.point, better.low, better.high) if end is not None]


def _probes(ledger: Ledger) -> list[dict[str, Any]]:
    shared = _bound(ledger)
    rows = []
    for probe in sorted(ledger.probes, key=lambda probe: probe.side != "target"):
        binary, better = probe.kind == "binary", probe.improvement
        tone = {"gained": "gain", "lost": "loss"}.get(probe.verdict, "even")
        bound = shared if binary else _round_up(1.05 * max(abs(end) for end in _ends(probe)))
        unit = " points" if binary else ""
        sign = lambda value, probe=probe: probe.show(value, sign=True)  # noqa: E731
        span = _between(probe.difference.low, probe.difference.high, sign)
        counts = {kind: len(getattr(probe, f"{kind}_ids")) for kind in ("kept", "gained", "lost", "never")}
        rows.append(
            {
                "probe": probe,
                "binary": binary,
                "tone": tone,
                "unit": unit,
                "before": probe.show(probe.before.point) + ("%" if binary else ""),
                "after": probe.show(probe.after.point) + ("%" if binary else ""),
                "difference": sign(probe.difference.point),
                "span": span,
                "level": _level(probe),
                "strip": charts.interval(
                    better.point,
                    better.low,
                    better.high,
                    bound,
                    tone,
                    f"{probe.name}: change {sign(probe.difference.point)}{unit}, {_level(probe)} {span}, {probe.verdict}",
                ),
                "scale": None if binary else [sign(end if probe.higher_is_better else 0.0 - end) for end in (-bound, bound)],
                "counts": counts,
                "bar": charts.shares(list(counts.items()), ", ".join(f"{count} {kind}" for kind, count in counts.items())),
                "p": f"p = {probe.p_adjusted:.3f}" if probe.p_adjusted >= 0.001 else "p < 0.001",
                "summary": [(name, *(number(v) if v is not None else "n/a" for v in pair)) for name, pair in sorted(probe.summary.items())],
            }
        )  # fmt: skip
    return rows


def _level(probe: ProbeChange) -> str:
    return f"{probe.difference.level:.0%} interval"


def _items(ledger: Ledger, which: str) -> dict[str, Any]:
    """The first lost (or gained) items: what was to be kept comes first for losses, what was wanted first for gains."""
    first = "keep" if which == "lost" else "target"
    probes = sorted(ledger.probes, key=lambda probe: probe.side != first)
    # Items without words, such as rows of membership inference, are counted and have nothing to show.
    found: list[tuple[str, ItemChange]] = [
        (probe.name, item) for probe in probes for item in getattr(probe, which) if item.prompt or item.before_output or item.after_output
    ]
    counts = [(probe.name, len(getattr(probe, f"{which}_ids"))) for probe in probes if getattr(probe, f"{which}_ids")]
    shown = []
    for name, item in found[:SHOWN_ITEMS]:
        before, after = word_diff(item.before_output, item.after_output)
        shown.append({"probe": name, "id": item.id, "prompt": item.prompt, "expected": item.expected, "before": before, "after": after,
                      "scores": f"{number(item.before_score)} → {number(item.after_score)}"})  # fmt: skip
    return {"total": sum(count for _, count in counts), "counts": counts, "shown": shown}


# --------------------------------------------------------------------------------------------------------------------------------- the curves


def _stages(run: RunFolder) -> list[dict[str, Any]]:
    """Curves and the doctor's words, by stage where rows name one."""
    clip = setting(run.config, "clip")
    bound = float(clip) if isinstance(clip, int | float) and not isinstance(clip, bool) else None
    by_stage: dict[str, list[dict[str, Any]]] = {}
    for row in run.metrics:
        by_stage.setdefault(str(row.get("name") or row.get("stage") or ""), []).append(row)
    return [
        {"name": name if len(by_stage) > 1 else "", "charts": _charts(rows), "findings": diagnose(rows, clip=bound), "points": len(rows)}
        for name, rows in by_stage.items()
    ]


def _charts(rows: Sequence[Mapping[str, Any]]) -> list[Markup]:
    found = curves.names(rows)
    plain = [name for name in found if not name.startswith("eval.") and name not in ("tokens", *(second for second, _ in PAIRS.values()))]
    plain += [name.removeprefix("eval.") for name in found if name.startswith("eval.") and name.removeprefix("eval.") not in found]
    order = sorted(dict.fromkeys(plain), key=lambda name: (name in LAST, name != "loss", LAST.index(name) if name in LAST else 0))
    drawn: list[Markup] = []
    # The first chart, the loss, takes what three columns leave over: four charts are one row of it and one of three.
    first = {0: 1, 1: 3, 2: 2}[len(order) % 3]
    for name in order:
        second, heading = PAIRS.get(name, ("", TITLES.get(name, name)))
        lines = []
        for metric in (name, second):
            word = metric.split("_")[0] if second else "train"
            lines += [(word, metric, False)] if metric in found else []
            lines += [(f"{word} (test)" if second else "test", f"eval.{metric}", True)] if f"eval.{metric}" in found else []
        drawn_lines = [Line(word, curves.curve(rows, metric), dots) for word, metric, dots in lines]
        drawn.append(charts.line_chart(heading, drawn_lines, low_at=_best(rows, name), span=1 if drawn else first))
    return [chart for chart in drawn if chart]


def _best(rows: Sequence[Mapping[str, Any]], name: str) -> int | None:
    held = curves.curve(rows, "eval.loss").finite
    return held.steps[held.values.index(min(held.values))] if name == "loss" and len(held) > 1 else None


# ------------------------------------------------------------------------------------------------------------------------------------ the rest


def _sample(sample: Sample) -> dict[str, Any]:
    before, after = word_diff(sample.before, sample.after)
    return {"prompt": sample.prompt, "before": before, "after": after, "expected": sample.expected, "same": sample.before == sample.after}


def _cost(run: RunFolder) -> list[tuple[str, str]]:
    named = {"tokens": ("Tokens trained", "{:,.0f}"), "seconds": ("Seconds", "{:,.0f}"), "peak_memory_gib": ("Peak memory (GiB)", "{:.2f}")}
    cost: Mapping[str, float] = run.ledger.cost if run.ledger else {}
    rows = [
        (named.get(key, (key.replace("_", " "), ""))[0], named[key][1].format(value) if key in named else say(value)) for key, value in cost.items()
    ]
    if run.ledger and run.ledger.kl:
        rows += [(f"KL: {key.replace('_', ' ')}", say(value)) for key, value in run.ledger.kl.items()]
    if run.seconds is not None:
        rows.append(("Wall clock, all stages", _time(run.seconds)))
    return rows
