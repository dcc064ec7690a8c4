"""Looking at models and data: `temper measure`, `compare`, `check`, `export`. A run folder stands for the model in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from tempering.cli.show import say, show_ledger, table, width
from tempering.errors import UserError

if TYPE_CHECKING:
    from tempering.types import Policy, Probe, Scores

Probes = Annotated[list[str] | None, Parameter(name="--probe", negative="")]
Json = Annotated[Path | None, Parameter(name="--json")]


def model_of(spec: str) -> str:
    """The model that a word stands for: a run folder's model, or the word itself.

    Raises:
        UserError: the run has no model yet.
    """
    folder = Path(spec)
    if (folder / "config.json").is_file() and (folder / "status.json").is_file():
        if (folder / "model").is_dir():
            return str(folder / "model")
        raise UserError(f"{spec}: the run has not saved a model yet; finish it with `temper run ... --resume {spec}`")
    return spec


def load(spec: str) -> Policy:
    """The policy of a model or run."""
    from tempering.display import Display
    from tempering.models import load as load_model

    return load_model(model_of(spec), say=Display().say)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    from tempering.home import write_atomic

    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    say(f"wrote {path}")


def _check_output(path: Path | None, flag: str) -> None:
    # Measuring takes minutes: a folder that is not there is told before, not after.
    if path is not None and not path.absolute().parent.is_dir():
        raise UserError(f"{flag} {path}: there is no folder {path.parent}; make it first")
    if path is not None and path.is_dir():
        raise UserError(f"{flag} {path}: is a folder; give a file's name")


def measure_command(*model: str, probe: Probes = None, data: str | None = None, shape: str = "auto", json_: Json = None) -> int:
    """Measure models: every probe's score on every model.

    Args:
        model: hub ids, folders, .gguf files, builtin names or run folders.
        probe: a battery (default, quick), one probe of it, KIND:ITEMS,field=value, or lm-eval:TASK; may be repeated.
        data: rows to measure the loss on.
        shape: how to read them.
        json_: write every item's score to this file.
    """
    if not model:
        raise UserError("temper measure needs a model, for example `temper measure builtin:tiny`; `temper measure --help` shows how it is used")
    _check_output(json_, "--json")
    every = [measured(spec, probe or [], data, shape)[0] for spec in model]
    rows = []
    for scores in every:
        for one in scores.probes:
            mean = sum(item.score for item in one.items) / max(1, len(one.items))
            more = ", ".join(f"{key} {value:.3g}" for key, value in one.summary.items())
            rows.append((scores.model, one.probe, one.side, one.metric, f"{mean:.3f}", len(one.items), more))
    say()
    table(("model", "probe", "side", "metric", "mean", "items", "more"), rows, right=(4, 5), wrap=(0, 3, 6))
    if json_ is not None:
        from dataclasses import asdict

        write_json(json_, [asdict(scores) for scores in every])
    return 0


def measured(spec: str, names: list[str], data: str | None, shape: str, probes: Sequence[Probe] | None = None) -> tuple[Scores, Sequence[Probe]]:
    """(scores, the probes other than those on the data): models that are compared answer what the base was asked."""
    from dataclasses import replace

    from tempering.cli.probes import find_probes
    from tempering.display import Display
    from tempering.measure import measure

    progress = Display().say  # standard output is for results
    policy = load(spec)
    if probes is None:
        probes = find_probes(names, policy) if names or data is None else ()
    held = _held(policy, data, shape) if data is not None else ()
    progress(f"measuring {spec}")
    return replace(measure(policy, [*probes, *held], say=progress), model=spec), probes


def _held(policy: Policy, data: str, shape: str) -> tuple[Probe, ...]:
    from tempering.data import pair_row, read, sft_row
    from tempering.display import Display
    from tempering.held import target_probes

    records = list(read(data, shape=shape, say=Display().say))
    paired = all(record.better for record in records)
    rows = [row for record in records if (row := (pair_row if paired else sft_row)(record, policy.tokenizer)) is not None]
    if not rows:
        raise UserError(f"--data {data}: no row is usable; look with `temper check {data}`")
    return target_probes(rows, len(rows))


def compare_command(
    *model: str,
    probe: Probes = None,
    data: str | None = None,
    shape: str = "auto",
    alpha: float = 0.05,
    lost: int = 5,
    html: Path | None = None,
    json_: Json = None,
) -> int:
    """Compare models with the first one, item by item; a single run folder shows the ledger it ended with.

    Args:
        model: the base, then any number of models or runs; p values are adjusted for all probes and models together.
        probe: a battery (default, quick), one probe of it, KIND:ITEMS,field=value, or lm-eval:TASK; may be repeated.
        data: rows to measure the loss on.
        shape: how to read them.
        alpha: intervals cover 1 - alpha.
        lost: how many lost items to show with their texts.
        html: write the ledgers to this file as one page.
        json_: write the ledgers to this file.
    """
    from tempering.ledger_types import Ledger

    if not 0 < alpha < 1:
        raise UserError(f"--alpha: expected a number between 0 and 1, got {alpha}")
    _check_output(html, "--html")
    _check_output(json_, "--json")
    if len(model) == 1 and (Path(model[0]) / "ledger.json").is_file():
        ledgers: tuple[Ledger, ...] = (Ledger.read(Path(model[0]) / "ledger.json"),)
    elif len(model) < 2:
        raise UserError("temper compare needs two models or more, the base first, or one finished run; `temper compare --help` shows how it is used")
    else:
        from tempering.ledger import compare_many

        for spec in model:
            model_of(spec)
        base, probes = measured(model[0], probe or [], data, shape)
        others = [measured(spec, [], data, shape, probes)[0] for spec in model[1:]]
        ledgers = compare_many(base, others, alpha=alpha)
    _show(ledgers, lost, html)
    if json_ is not None:
        write_json(json_, [json.loads(ledger.to_json()) for ledger in ledgers])
    return 0


def _show(ledgers: tuple[Any, ...], lost: int, html: Path | None) -> None:
    for ledger in ledgers:
        show_ledger(ledger, lost)
        say()
    if html is not None:
        import io

        from rich.console import Console

        from tempering.home import write_atomic
        from tempering.ledger_view import table as ledger_table

        page = Console(width=110, highlight=False, record=True, file=io.StringIO(), force_terminal=True, color_system="truecolor")
        for ledger in ledgers:
            page.print(ledger_table(ledger, lost=lost), "")
        write_atomic(html, page.export_html(code_format=_PAGE))
        say(f"wrote {html}")


_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>temper compare</title><style>{stylesheet}
body {{ color: {foreground}; background: {background}; margin: 1rem; overflow-x: auto }}
pre {{ font: 13px/1.35 ui-monospace, Menlo, Consolas, monospace }}</style></head><body><pre><code>{code}</code></pre></body></html>
"""


def check(
    data: str,
    /,
    *,
    model: str = "builtin:smollm2-135m",
    against: Annotated[list[str] | None, Parameter(negative="")] = None,
    shape: str = "auto",
    template: str | None = None,
    max_length: int | None = None,
    train_on: Literal["assistant", "last", "each", "all"] = "assistant",
    limit: int | None = None,
    json_: Json = None,
) -> int:
    """Show what a model would be trained on, and find what people lose days to, before any training.

    Args:
        data: file, folder or hub id.
        model: whose tokenizer and chat template to use.
        against: test files whose prompts must not occur in the data, beside the keep battery's own; may be repeated.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain.
        max_length: longest sequence in tokens; the model's own limit by default.
        train_on: which tokens are scored, as in `temper run sft`.
        limit: read at most this many rows.
        json_: write the findings to this file.
    """
    from rich.console import Console

    from tempering.data import check as check_data
    from tempering.data import with_template

    _check_output(json_, "--json")
    policy = load(model)
    if template is not None:
        policy.tokenizer = with_template(policy.tokenizer, template)
    found = check_data(
        data,
        policy,
        against=tuple(against or ()),
        probes=_battery_prompts(policy),
        max_length=max_length,
        train_on=train_on,
        shape=shape,
        limit=limit,
        say=say,
    )
    Console(width=max(80, width()), highlight=False).print(found)
    if json_ is not None:
        write_json(json_, found.to_json())
    return 0 if found.ok else UserError.exit_code


def _battery_prompts(policy: Policy) -> dict[str, list[str]]:
    """Probe -> the questions of the keep battery, which must not be trained on."""
    from typing import get_args

    from tempering.items import read_items
    from tempering.measure import keep_battery

    found: dict[str, list[str]] = {}
    for probe in keep_battery(policy):
        source: Any = getattr(probe, "items", None)
        if isinstance(source, str):
            options = get_args(type(probe).model_fields["items"].annotation)  # type: ignore[attr-defined]
            source = read_items(source, next(get_args(option)[0] for option in options if get_args(option)))
        texts = [
            getattr(item, name) for item in source or () for name in ("prompt", "question", "text") if isinstance(getattr(item, name, None), str)
        ]
        if texts:
            found[probe.name] = texts
    return found


def export(run: str, /, *, out: Path, merged: bool = False, check: bool = True) -> int:
    """Write a run's model for other tools, and prove that what was written is what was trained.

    Args:
        run: a run folder, or any model.
        out: a folder that does not exist yet.
        merged: fold an adapter into plain weights.
        check: compare log-probs with the files read back before the folder gets its name.
    """
    from tempering.models import export as export_model

    say(export_model(model_of(run), out, merged=merged, check=check, say=say))
    return 0
