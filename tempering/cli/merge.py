"""`temper merge`: one model of several, and a ledger against each of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from tempering.cli.models import Json, Probes, measured, model_of, write_json
from tempering.cli.show import say, show_ledger
from tempering.errors import UserError

if TYPE_CHECKING:
    from tempering.ledger_types import Ledger
    from tempering.merging.config import Config

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", re.IGNORECASE)


def merge(
    *model: str,
    out: Path,
    method: str = "linear",
    base: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    out_dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    tokenizer: str | None = None,
    shard_size: str = "5GB",
    seed: int = 0,
    keep: Literal["default", "quick", "none"] = "default",
    probe: Probes = None,
    data: str | None = None,
    shape: str = "auto",
    lost: int = 5,
    along: str | None = None,
    calibrate: Annotated[list[str] | None, Parameter(negative="")] = None,
    held: Annotated[list[str] | None, Parameter(negative="")] = None,
    greedy: Annotated[bool, Parameter(negative="")] = False,
    search: str | None = None,
    points: int = 2,
    budget: int = 30,
    json_: Json = None,
    **setting: str,
) -> int:
    """Merge models, tensor by tensor, and measure what the result keeps of each. A merge that was stopped goes on when it is started again.

    Args:
        model: the models, or one mergekit file (.yaml); MODEL+ADAPTER folds an adapter in on the way.
        out: a folder that does not exist yet.
        method: how; `temper methods merge` lists them.
        base: the model that the others were trained from, for methods that merge changes.
        dtype: what is computed in, by default the type of the base or the first model.
        out_dtype: what is stored, by default what was computed in.
        tokenizer: union, base or a model, where vocabularies differ.
        shard_size: largest size of a file.
        seed: of methods that draw random numbers.
        keep: the battery that result and parents are measured on; none skips the ledger.
        probe: probes instead of that battery; may be repeated.
        data: rows to measure the loss on.
        shape: how to read them.
        lost: how many lost items to show with their texts.
        along: values of one setting, "t=0 0.25 0.5 1": a merge for each, in a folder of its own in --out, all measured and drawn in path.svg against
            what they keep of the first and the last model.
        calibrate: rows for methods that look at data (fisher, regmean): one file for all models, or as many as there are, in order.
        held: rows that --greedy and --search choose by; of several files the mean of their losses counts.
        greedy: a greedy soup: models go in one by one, the best first, and stay where the merge gets no worse on --held.
        search: a setting and its bounds, "weight=0..1", which is searched for the least loss on --held, for each model and point of the depth.
        points: numbers between the first layer and the last that --search looks for.
        budget: most merges that --search tries.
        json_: write the ledgers to this file.
        setting: the method's own: --weight 0.5, --density 0.6,0.4 for one of each model, --t "[0, 0.5, 1]" from the first layer to the last.
    """
    from tempering.display import Display
    from tempering.merging.config import read_config
    from tempering.merging.run import merge as run

    if not model:
        raise UserError("temper merge needs models, or a mergekit file; `temper merge --help` shows how it is used")
    if calibrate and len(calibrate) not in (1, len(model)):
        raise UserError(f"--calibrate: {len(calibrate)} files for {len(model)} models; give one for all, or one for each, in order")
    rows = dict(zip(model, calibrate if len(calibrate) == len(model) else calibrate * len(model), strict=True)) if calibrate else {}
    make = lambda names, more: _config(names, method, base, dtype, out_dtype, tokenizer, setting | more, rows)  # noqa: E731
    tried: list[dict[str, Any]] = []
    if along is not None:
        if json_ is not None or len(model) < 2:
            raise UserError("--along draws the way between two models or more, and writes path.svg instead of ledgers; leave --json out")
        asked = probe or ["default" if keep == "none" else keep]
        _path(along, lambda more: make(model, more), out, model, asked, data, shape, seed, _bytes(shard_size))
        return 0
    if greedy or search is not None:
        if not held or len(model) < 2 or (greedy and search is not None):
            raise UserError(
                "--greedy and --search choose between merges of two models or more by their loss on rows: take one of them, with --held ROWS"
            )
        loss = lambda config: _trial(config, out, held, shape, seed)  # noqa: E731
        config, tried = _greedy(model, make, loss) if search is None else _searched(model, search, points, budget, method, make, loss)
    elif held:
        raise UserError("--held is what --greedy and --search choose by; take one of them, or --data for rows to measure on")
    elif len(model) == 1 and model[0].lower().endswith((".yaml", ".yml")):
        if setting or base or calibrate or method != "linear":
            raise UserError(f"{model[0]} says what is merged and how; change it there, and leave --method, --base, --calibrate and settings out")
        config = read_config(Path(model[0]))
    else:
        config = make(model, {})
    run(config, out, seed=seed, shard_bytes=_bytes(shard_size), say=Display().say)
    say(f"wrote {out}")
    if tried:
        write_json(out / "tried.json", tried)
    parents = [name for name in config.named() if name != config.base_model or name in model]
    if keep == "none" and not probe and data is None:
        return 0
    ledgers = _ledgers(str(out), parents, probe or ([keep] if keep != "none" else []), data, shape)
    for ledger in ledgers:
        show_ledger(ledger, lost)
        say()
    for ledger in ledgers:
        say(kept_of(ledger))
    if json_ is not None:
        import json

        write_json(json_, [json.loads(ledger.to_json()) for ledger in ledgers])
    return 0


def _config(
    models: Sequence[str],
    method: str,
    base: str | None,
    dtype: str | None,
    out_dtype: str | None,
    tokenizer: str | None,
    given: dict[str, Any],
    calibrate: Mapping[str, str],
) -> Config:
    from tempering import index
    from tempering.cli.flags import setting
    from tempering.merging.config import parse

    known = index.settings(index.load(index.find(method, "merge")))
    inputs: list[dict[str, Any]] = [{"model": model_of(name), "parameters": {}, "calibrate": calibrate.get(name)} for name in models]
    whole: dict[str, Any] = {}
    for flag, text in given.items():
        key = setting("merge", flag, method, known)
        value = _value(flag, text) if isinstance(text, str) else text
        if isinstance(value, tuple):
            if "Each" not in str(known[key].type):
                raise UserError(f"--{flag} {text}: {method} has one {key} for all models; give one value")
            if len(value) != len(models):
                raise UserError(f"--{flag} {text}: {len(value)} values for {len(models)} models; give one for each, in order, or one for all")
            for one, number in zip(inputs, value, strict=True):
                one["parameters"][key] = number
        else:
            whole[key] = value
    config = {"merge_method": method, "models": inputs, "base_model": model_of(base) if base else None, "parameters": whole}
    return parse(config | {"dtype": dtype, "out_dtype": out_dtype, "tokenizer_source": tokenizer}, "temper merge")


def _value(flag: str, text: str) -> Any:
    """A number or truth value; "a,b" is one for each model, "[a, b]" the ends of a line from the first layer to the last."""
    import yaml

    try:
        if "," in text and not text.lstrip().startswith("["):
            return tuple(float(part) for part in text.split(","))
        value = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"--{flag} {text}: expected a number, numbers with commas, or a list in brackets") from error
    if not isinstance(value, int | float | list) or (isinstance(value, list) and not all(isinstance(part, int | float) for part in value)):
        raise UserError(f"--{flag} {text}: expected a number, true, false, or a list of numbers in brackets")
    return value


def _bytes(text: str) -> int:
    found = _SIZE.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise UserError(f"--shard-size {text}: expected a size, for example 5GB or 500MB")
    return int(float(found[1]) * 1000 ** " KMGT".index(found[2].upper() or " "))


def _path(
    along: str,
    make: Callable[[dict[str, str]], Config],
    out: Path,
    models: Sequence[str],
    probes: list[str],
    data: str | None,
    shape: str,
    seed: int,
    shard_bytes: int,
) -> None:
    """A merge for each value of a setting, measured and drawn between the first model and the last."""
    from dataclasses import replace

    from tempering.display import Display
    from tempering.home import write_atomic
    from tempering.merging.path import picture, points, said
    from tempering.merging.run import merge as run

    name, sign, texts = along.partition("=")
    values = texts.split()
    if not sign or not values:
        raise UserError(f'--along {along}: expected a setting and its values, for example --along "t=0 0.25 0.5 0.75 1"')
    configs = {value: make({name: value}) for value in values}
    first, asked = measured(models[0], probes, data, shape)
    between = []
    for value, config in configs.items():
        folder = run(config, out / f"{name}-{value}", seed=seed, shard_bytes=shard_bytes, say=Display().say)
        between.append(replace(measured(str(folder), [], data, shape, asked)[0], model=f"{name} {value}"))
    last = measured(models[-1], [], data, shape, asked)[0]
    found = points((first, last), between)
    for point in found:
        say(said(point, found[0].name, found[-1].name))
    write_atomic(out / "path.svg", str(picture(found)) + "\n")
    say(f"wrote {out / 'path.svg'}")


def _trial(config: Config | str, out: Path, held: Sequence[str], shape: str, seed: int) -> float:
    """The loss of a merge, made for this alone beside `out`, or of a model."""
    import tempfile

    from tempering.merging.run import merge as run

    if not isinstance(config, str):
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.absolute().parent) as folder:
            return _trial(str(run(config, Path(folder) / "trial", seed=seed, say=lambda text: None)), out, held, shape, seed)
    found = []
    for data in held:
        losses = [probe.summary["loss"] for probe in measured(config, [], data, shape, ())[0].probes if "loss" in probe.summary]
        if not losses:
            raise UserError(f"--held {data}: it holds no demonstrations or texts to measure a loss on")
        found.append(losses[0])
    return sum(found) / len(found)


def _greedy(
    models: Sequence[str], make: Callable[[Sequence[str], dict[str, Any]], Config], loss: Callable[[Config | str], float]
) -> tuple[Config, list[dict[str, Any]]]:
    from tempering.merging.search import greedy

    tried = greedy(models, lambda some: loss(model_of(some[0]) if len(some) == 1 else make(some, {})))
    for one in tried:
        say(f"{' + '.join(map(str, one.what))}: loss {one.loss:.4f}")
    soup = [one for one in tried if one.loss == min(other.loss for other in tried)][-1]
    return make([str(name) for name in soup.what], {}), [{"models": one.what, "loss": one.loss} for one in tried]


def _searched(
    models: Sequence[str],
    text: str,
    points: int,
    budget: int,
    method: str,
    make: Callable[[Sequence[str], dict[str, Any]], Config],
    loss: Callable[[Config | str], float],
) -> tuple[Config, list[dict[str, Any]]]:
    """Lines of a setting over the depth, one for each model where it has one of its own."""
    from tempering import index
    from tempering.merging.search import search

    found = re.fullmatch(r"([\w-]+)=(-?[\d.]+)\.\.(-?[\d.]+)", text)
    known = index.settings(index.load(index.find(method, "merge")))
    if found is None or found[1] not in known or points < 1 or budget < 1:
        some = ", ".join(known)
        raise UserError(
            f'--search {text}: expected one of {method}\'s settings ({some}) with its bounds, "weight=0..1"; --points and --budget from 1 on'
        )
    name, low, high = found[1], float(found[2]), float(found[3])
    each = "Each" in str(known[name].type)

    def config(values: Sequence[float]) -> Config:
        lines = [list(values[i : i + points]) for i in range(0, len(values), points)]
        return make(models, {name: tuple(lines) if each else lines[0]})

    default = min(max(float(known[name].default), low), high)  # type: ignore[arg-type]
    tried = search([default] * (points * (len(models) if each else 1)), low, high, lambda values: loss(config(values)), budget)
    best = min(tried, key=lambda one: one.loss)
    say(f"{name}: the best of {len(tried)} merges has a loss of {best.loss:.4f}, the first {tried[0].loss:.4f}")
    return config([float(value) for value in best.what]), [{name: one.what, "loss": one.loss} for one in tried]


def _ledgers(merged: str, parents: Sequence[str], probes: list[str], data: str | None, shape: str) -> tuple[Ledger, ...]:
    """The merged model against each parent; all answer the same items."""
    from tempering.ledger import compare

    after, asked = measured(merged, probes, data, shape)
    return tuple(compare(measured(parent, [], data, shape, asked)[0], after) for parent in parents)


def kept_of(ledger: Ledger) -> str:
    """ "OUT keeps 97% of A's right answers (460 of 474) and loses 14: arithmetic-17, ..."."""
    binary = [probe for probe in ledger.probes if probe.kind == "binary"]
    kept, lost = [sum(len(ids) for ids in (getattr(probe, name) for probe in binary)) for name in ("kept_ids", "lost_ids")]
    if not kept + lost:
        return f"{ledger.after_model} has nothing to keep of {ledger.before_model}: no item was right"
    shown = [id for probe in binary for id in probe.lost_ids]
    more = f", and {len(shown) - 5} more" if len(shown) > 5 else ""
    tail = f" and loses {lost}: {', '.join(shown[:5])}{more}" if lost else " and loses none"
    gained = sum(len(probe.gained_ids) for probe in binary)
    share = f"{kept / (kept + lost):.0%} of {ledger.before_model}'s right answers ({kept} of {kept + lost})"
    return f"{ledger.after_model} keeps {share}{tail}; it gains {gained}"
